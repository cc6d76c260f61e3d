"""Between sockets and endpoints: routes, authentication, errors as the specification wants them, log and counters."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from longshore.errors import EngineError
from longshore.registry.server import api_blobs, api_lists, api_manifests, api_uploads
from longshore.registry.server.access import Authority, admit, needed_for
from longshore.registry.server.calls import Call, Parts
from longshore.registry.server.metrics import Metrics
from longshore.registry.server.refusals import Code, Refused, error_body, refusal_of
from longshore.registry.server.routes import Route, find_route

log = logging.getLogger("longshore.registry.server")
access_log = logging.getLogger("longshore.registry.access")

Handler = Callable[[Call], Awaitable[web.StreamResponse]]
Extra = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

ENDPOINTS: Mapping[tuple[str, str], Handler] = {
    ("base", "GET"): api_lists.get_base,
    ("catalog", "GET"): api_lists.get_catalog,
    ("tags", "GET"): api_lists.get_tags,
    ("referrers", "GET"): api_lists.get_referrers,
    ("blob", "GET"): api_blobs.get_blob,
    ("blob", "DELETE"): api_blobs.delete_blob,
    ("uploads", "POST"): api_uploads.post_upload,
    ("upload", "GET"): api_uploads.get_upload,
    ("upload", "PATCH"): api_uploads.patch_upload,
    ("upload", "PUT"): api_uploads.put_upload,
    ("upload", "DELETE"): api_uploads.delete_upload,
    ("manifest", "GET"): api_manifests.get_manifest,
    ("manifest", "PUT"): api_manifests.put_manifest,
    ("manifest", "DELETE"): api_manifests.delete_manifest,
}


class Front:
    """One per registry. `extras` are paths beside the specification's: health, the token service."""

    def __init__(
        self, parts: Parts, authority: Authority, metrics: Metrics, extras: Mapping[str, Extra]
    ) -> None:
        self._parts, self._authority = parts, authority
        self._metrics, self._extras = metrics, extras

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises an ordinary exception."""
        started = time.monotonic()
        kind = ""
        with self._metrics.in_flight():
            try:
                reply, kind = await self._dispatch(request)
            except EngineError as error:
                reply = self._refuse(request, refusal_of(error))
            except (ConnectionError, asyncio.CancelledError):
                raise
            except Exception:
                log.exception("defect in %s %s", request.method, request.path_qs[:300])
                reply = self._refuse(request, Refused(Code.UNKNOWN, "see the registry's log"))
        seconds = time.monotonic() - started
        self._metrics.request(kind or "other", request.method, reply.status, seconds)
        if not self._parts.settings.log.accesslog.disabled:
            self._note(request, reply, seconds)
        return reply

    async def _dispatch(self, request: web.BaseRequest) -> tuple[web.StreamResponse, str]:
        path = request.rel_url.raw_path
        if extra := self._extras.get(path):
            reply = await extra(request)
            self._dress(reply)
            return reply, "extra"
        route = find_route(request.method, path)
        call = await self._call(request, route)
        method = (
            "GET" if request.method == "HEAD" and (route.kind, "HEAD") not in ENDPOINTS else request.method
        )
        reply = await ENDPOINTS[route.kind, method](call)
        self._dress(reply)
        return reply, route.kind

    async def _call(self, request: web.BaseRequest, route: Route) -> Call:
        needed = needed_for(request.method, route)
        authorization = request.headers.get("Authorization", "")
        own = self._parts.settings.http.host or f"{request.scheme}://{request.host}"
        principal = await admit(self._authority, authorization, own, needed)
        return Call(self._parts, request, route, principal, request.rel_url.query)

    def _dress(self, reply: web.StreamResponse) -> None:
        if not reply.prepared:
            for name, value in self._parts.common.items():
                reply.headers.setdefault(name, value)

    def _refuse(self, request: web.BaseRequest, refused: Refused) -> web.StreamResponse:
        if refused.status >= 500:
            log.warning("%s %s: %d %s", request.method, request.path_qs[:300], refused.status, refused)
        headers = {name: value for name, value in refused.headers.items() if value}
        reply = web.Response(
            status=refused.status,
            body=error_body(refused),
            headers={"Content-Type": "application/json", **headers},
        )
        if request.body_exists and not request.content.is_eof():
            reply.force_close()  # rather than read what nobody wants
        self._dress(reply)
        return reply

    def _note(self, request: web.BaseRequest, reply: web.StreamResponse, seconds: float) -> None:
        access_log.info(
            '%s "%s %s" %d %d "%s" %.3f %s',
            request.remote or "-",
            request.method,
            request.path_qs[:500],
            reply.status,
            reply.content_length or 0,
            request.headers.get("User-Agent", "-")[:100].replace('"', "'"),
            seconds,
            request.headers.get("X-Request-Id", "")[:64] or uuid.uuid4().hex[:12],
        )
