"""The registry client, imported when the first pull needs it: it costs the daemon's start 150 ms and 15 MB."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from longshore.oci.reference import Reference
from longshore.registry.hosts import parse_mirror

if TYPE_CHECKING:
    from longshore.registry.auth import Credentials
    from longshore.registry.client import Described, Pulled, RegistryClient
    from longshore.storage.content import ContentStore


class LazyRegistry:
    """core.images.Puller. `insecure` and `mirrors` may change while the daemon runs; the next pull goes by them."""

    def __init__(self, insecure: tuple[str, ...], mirrors: tuple[str, ...]) -> None:
        self.insecure, self.mirrors = insecure, mirrors
        self._client: RegistryClient | None = None
        self._made_for = insecure, mirrors

    async def pull(
        self,
        reference: Reference,
        *,
        platform: str = "",
        auth: "Credentials | None" = None,
        sink: "ContentStore",
        progress: "Callable[[Mapping[str, object]], None]",
    ) -> "Pulled":
        """See RegistryClient.pull."""
        return await self._current().pull(
            reference, platform=platform, auth=auth, sink=sink, progress=progress
        )

    async def describe(self, reference: Reference, *, auth: "Credentials | None" = None) -> "Described":
        """See RegistryClient.describe."""
        return await self._current().describe(reference, auth=auth)

    async def login(self, credentials: "Credentials") -> None:
        """See RegistryClient.login."""
        await self._current().login(credentials)

    def _current(self) -> "RegistryClient":
        from longshore import __version__
        from longshore.registry.client import RegistryClient

        if self._client is None or self._made_for != (self.insecure, self.mirrors):
            self._client = RegistryClient(
                insecure=self.insecure,
                mirrors=[parse_mirror(text, self.insecure) for text in self.mirrors],
                user_agent=f"longshore/{__version__}",
            )
            self._made_for = self.insecure, self.mirrors
        return self._client
