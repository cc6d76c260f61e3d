"""One request on its way through the endpoints, and the replies that they share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from aiohttp import web

from longshore.oci.digest import Digest
from longshore.registry.server.access import Principal
from longshore.registry.server.refusals import Code, Refused
from longshore.registry.server.routes import Route

if TYPE_CHECKING:
    from longshore.registry.server.settings import Settings
    from longshore.registry.server.store import Store

Teller = Callable[["Happening"], None]


@dataclass(frozen=True, slots=True)
class Happening:
    """What listeners hear of. `action` is pull, push, mount or delete."""

    action: str
    repository: str
    digest: str
    request: web.BaseRequest
    actor: str = ""
    media_type: str = ""
    size: int = 0
    tag: str = ""
    source: str = ""  # the repository of a mount


class Cache(Protocol):
    """Another registry behind this one; `proxy` is it."""

    async def refresh_manifest(self, repository: str, reference: Digest | str) -> None:
        """Have the manifest in the store, if it can be had."""
        ...

    async def send_blob(self, call: "Call", digest: Digest) -> web.StreamResponse:
        """A blob that is not in the store yet: sent while it comes."""
        ...

    async def list_tags(self, call: "Call") -> web.StreamResponse | None:
        """The other registry's list, None when it does not answer."""
        ...

    async def list_referrers(self, call: "Call", subject: Digest) -> web.StreamResponse | None:
        """The other registry's list, None when it does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What endpoints work with."""

    store: "Store"
    settings: "Settings"
    tell: Teller
    proxy: "Cache | None" = None
    common: Mapping[str, str] = field(default_factory=dict[str, str])  # headers of every reply


@dataclass(slots=True)
class Call:
    parts: Parts
    request: web.BaseRequest
    route: Route
    principal: Principal
    query: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def name(self) -> str:
        return self.route.name

    @property
    def is_head(self) -> bool:
        return self.request.method == "HEAD"

    def url(self, path: str) -> str:
        """A Location: relative unless the settings want an absolute one."""
        http = self.parts.settings.http
        if http.host:
            return http.host.rstrip("/") + path
        if http.relativeurls:
            return path
        return f"{self.request.scheme}://{self.request.host}{path}"

    def tell(self, action: str, digest: str, **more: Any) -> None:
        self.parts.tell(Happening(action, self.name, digest, self.request, actor=self.principal.name, **more))

    def check_writable(self) -> None:
        """Raises Refused UNSUPPORTED in read-only mode and in front of another registry."""
        if self.parts.settings.storage.maintenance.readonly.enabled:
            raise Refused(Code.UNSUPPORTED, "the registry is in read-only mode")
        if self.parts.proxy is not None:
            raise Refused(Code.UNSUPPORTED, "a pull-through cache takes no pushes and no deletions")

    def check_deletable(self) -> None:
        """Raises Refused UNSUPPORTED where deletion is switched off."""
        self.check_writable()
        if not self.parts.settings.storage.delete.enabled:
            raise Refused(Code.UNSUPPORTED, "deletion is switched off (storage.delete.enabled)")


def empty(status: int, headers: Mapping[str, str]) -> web.Response:
    """A reply without a body; 204 has no length (RFC 9110, section 8.6)."""
    return web.Response(
        status=status, headers=headers if status == 204 else {**headers, "Content-Length": "0"}
    )


def json_reply(
    call: Call, value: Any, headers: Mapping[str, str] | None = None, kind: str = ""
) -> web.Response:
    data = msgspec.json.encode(value)
    return web.Response(body=data, headers={"Content-Type": kind or "application/json", **(headers or {})})


def head(headers: Mapping[str, str], size: int, status: int = 200) -> web.StreamResponse:
    """The reply to a HEAD: the length of what a GET would bring, and no body."""
    reply = web.StreamResponse(status=status, headers=headers)
    reply.content_length = size
    return reply
