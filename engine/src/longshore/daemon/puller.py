"""The registry client, imported when the first pull or push needs it: it costs the daemon's start 150 ms and 15 MB."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from longshore.daemon.settings import Settings
from longshore.oci.reference import Reference
from longshore.registry.hosts import RegistryRules, parse_mirror

if TYPE_CHECKING:
    from longshore.core.images.intake import Intake
    from longshore.oci.descriptor import Descriptor
    from longshore.registry.auth import Credentials
    from longshore.registry.cargo import Cargo
    from longshore.registry.client import Described, Pulled, RegistryClient
    from longshore.registry.listing import SearchResult
    from longshore.storage.content import ContentStore


class LazyRegistry:
    """core.images.Puller. `settings` may change while the daemon runs; the next pull goes by them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client: RegistryClient | None = None
        self._made_for = settings

    async def pull(
        self,
        reference: Reference,
        *,
        platform: str = "",
        auth: "Credentials | None" = None,
        sink: "Intake",
        progress: "Callable[[Mapping[str, object]], None]",
    ) -> "Pulled":
        """See RegistryClient.pull."""
        return await self._current().pull(
            reference, platform=platform, auth=auth, sink=sink, progress=progress
        )

    async def push(
        self,
        reference: Reference,
        cargo: "Cargo",
        *,
        auth: "Credentials | None" = None,
        content: "ContentStore",
        progress: "Callable[[Mapping[str, object]], None]",
    ) -> None:
        """See RegistryClient.push."""
        await self._current().push(reference, cargo, auth=auth, content=content, progress=progress)

    async def lacks(
        self, reference: Reference, manifests: "Sequence[Descriptor]", *, auth: "Credentials | None" = None
    ) -> "list[Descriptor]":
        """See RegistryClient.lacks."""
        return await self._current().lacks(reference, manifests, auth=auth)

    async def tags(self, reference: Reference, *, auth: "Credentials | None" = None) -> list[str]:
        """See RegistryClient.tags."""
        return await self._current().tags(reference, auth=auth)

    async def search(
        self, term: str, *, limit: int, auth: "Credentials | None" = None
    ) -> "list[SearchResult]":
        """See RegistryClient.search."""
        return await self._current().search(term, limit=limit, auth=auth)

    def download(self, url: str) -> AsyncGenerator[bytes]:
        """See RegistryClient.download."""
        return self._current().download(url)

    async def describe(self, reference: Reference, *, auth: "Credentials | None" = None) -> "Described":
        """See RegistryClient.describe."""
        return await self._current().describe(reference, auth=auth)

    async def login(self, credentials: "Credentials") -> None:
        """See RegistryClient.login."""
        await self._current().login(credentials)

    def _current(self) -> "RegistryClient":
        from longshore import __version__
        from longshore.registry.client import RegistryClient
        from longshore.registry.patience import Patience

        settings = self.settings
        if self._client is None or self._made_for is not settings:
            self._client = RegistryClient(
                registry_rules(settings),
                parallel=settings.max_concurrent_downloads,
                patience=Patience(attempts=settings.max_download_attempts),
                user_agent=f"longshore/{__version__}",
            )
            self._made_for = settings
        return self._client


def registry_rules(settings: Settings) -> RegistryRules:
    """What the flags say about registries."""
    return RegistryRules(
        insecure=settings.insecure_registries,
        mirrors=tuple(parse_mirror(text, settings.insecure_registries) for text in settings.registry_mirrors),
        config_path=tuple(filter(None, settings.registry_config_path.split(":"))),
    )
