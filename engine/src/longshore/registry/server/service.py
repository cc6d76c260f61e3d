"""One whole registry, from its settings to its sockets and back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from aiohttp import web

from longshore import __version__
from longshore.registry.server.access import Authority, Open
from longshore.registry.server.calls import Happening, Parts
from longshore.registry.server.collector import Collected, collect
from longshore.registry.server.front import Extra, Front
from longshore.registry.server.health import Health
from longshore.registry.server.htpasswd import BasicAuthority, Passwords
from longshore.registry.server.listen import GuardedServer, bind, tls_context
from longshore.registry.server.metrics import Metrics
from longshore.registry.server.notifications import Notifier
from longshore.registry.server.proxy import Proxy
from longshore.registry.server.settings import Settings
from longshore.registry.server.store import Store
from longshore.registry.server.threads import in_thread
from longshore.registry.server.upstream import Upstream

log = logging.getLogger("longshore.registry.server")


class RegistryServer:
    """`async with RegistryServer(settings)`: serves while the block runs.

    Entering raises EngineError: a root that another one has, an address in use, files that cannot be read. Leaving
    stops listening, gives requests in flight `http.draintimeout`, and keeps unfinished uploads for the next start.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.addresses: list[str] = []  # host:port of each socket; the port is the one that was taken
        self.debug_addresses: list[str] = []
        self._stack = AsyncExitStack()
        self._metrics = Metrics()
        self._notifier: Notifier | None = None

    async def __aenter__(self) -> "RegistryServer":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        settings, stack = self.settings, self._stack
        context = tls_context(settings.http.tls)
        self.store = Store(settings.root)
        stack.callback(self.store.close)
        authority, extras = self._authority()
        proxy = self._proxy()
        parts = Parts(self.store, settings, self._tell, proxy, common_headers(settings))
        self._health = Health(self.store)
        front = Front(parts, authority, self._metrics, {"/": self._answer_health, **extras})
        if endpoints := settings.notifications.endpoints:
            self._notifier = Notifier(endpoints, settings.http.addr, self._metrics.count)
            stack.push_async_callback(self._notifier.close, min(5.0, float(settings.http.draintimeout)))
        for work, interval in self._chores():
            task = asyncio.create_task(_every(interval, work))
            stack.push_async_callback(_cancelled, task)
        self.addresses = await self._listen(front.handle, settings.http.addr, context)
        if settings.http.debug.addr:
            self.debug_addresses = await self._listen(self._answer_debug, settings.http.debug.addr, None)
            log.info("health and metrics on %s", ", ".join(self.debug_addresses))
        scheme = "https" if context else "http"
        log.info(
            "the registry %s listens on %s",
            settings.root,
            ", ".join(f"{scheme}://{a}" for a in self.addresses),
        )

    def _authority(self) -> tuple[Authority, dict[str, Extra]]:
        """Who may do what, and the paths that come with it. Raises InvalidArgument."""
        auth = self.settings.auth
        if auth.htpasswd:
            return BasicAuthority(Passwords(auth.htpasswd.path), auth.htpasswd.realm, auth.access), {}
        if auth.token is None and auth.tokenservice is None:
            return Open(), {}
        from longshore.registry.server import tokens  # cryptography is large: only for those who use it

        if auth.tokenservice:
            passwords = Passwords(auth.tokenservice.path)
            issuer = tokens.TokenIssuer(auth.tokenservice, passwords, auth.access, self.settings.root)
            return issuer.authority, {"/auth/token": issuer.answer}
        assert auth.token is not None
        return (
            tokens.TokenAuthority(
                tokens.load_keys(auth.token),
                issuer=auth.token.issuer,
                service=auth.token.service,
                realm=auth.token.realm,
                algorithms=auth.token.signingalgorithms,
            ),
            {},
        )

    def _proxy(self) -> Proxy | None:
        if not self.settings.proxy.remoteurl:
            return None

        def count(name: str, amount: float) -> None:
            self._metrics.count(f"registry_proxy_{name}_total", amount)

        proxy = Proxy(self.store, Upstream(self.settings.proxy), count)
        self._stack.push_async_callback(proxy.close)
        return proxy

    def _tell(self, happening: Happening) -> None:
        self._metrics.count("registry_events_total", action=happening.action)
        if self._notifier is not None:
            self._notifier.tell(happening)

    async def _listen(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        address: str,
        context: object,
    ) -> list[str]:
        runner = web.ServerRunner(
            GuardedServer(handler, self.settings.limits),
            handle_signals=False,
            shutdown_timeout=float(self.settings.http.draintimeout),
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        shown: list[str] = []
        for sock in bind(address):
            await web.SockSite(runner, sock, ssl_context=context, backlog=512).start()  # type: ignore[arg-type]
            host, port = sock.getsockname()[:2]
            shown.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return shown

    # What is done now and then

    def _chores(self) -> Sequence[tuple[Callable[[], object], float]]:
        purging = self.settings.storage.maintenance.uploadpurging
        chores: list[tuple[Callable[[], object], float]] = []
        if purging.enabled:
            chores.append((lambda: self.store.uploads.expire(purging.age), float(purging.interval)))
        if self.settings.gc.enabled:
            chores.append((self.collect, float(self.settings.gc.interval)))
        return chores

    def collect(self) -> Collected:
        """Garbage collection now; blocks."""
        settings = self.settings
        ttl = float(settings.proxy.ttl) if settings.proxy.remoteurl else 0.0
        done = collect(
            self.store, grace=float(settings.gc.grace), delete_untagged=settings.gc.deleteuntagged, ttl=ttl
        )
        self._metrics.count("registry_storage_collected_blobs_total", done.blobs)
        self._metrics.count("registry_storage_collected_bytes_total", done.bytes)
        return done

    # Health and metrics

    async def _answer_health(self, request: web.BaseRequest) -> web.StreamResponse:
        """Of the main address: 200 or 503, and no word about why."""
        problems = await in_thread(self._health.problems)
        return web.Response(status=503 if problems else 200)

    async def _answer_debug(self, request: web.BaseRequest) -> web.StreamResponse:
        path, prometheus = request.rel_url.raw_path, self.settings.http.debug.prometheus
        if path == "/debug/health":
            problems = await in_thread(self._health.problems)
            return web.json_response(problems, status=503 if problems else 200)
        if path == prometheus.path and prometheus.enabled:
            gauges = await in_thread(self._gauges)
            text = self._metrics.render(gauges)
            return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4"})
        return web.Response(status=404, text="/debug/health, and the metrics where they are switched on\n")

    def forget_health(self) -> None:
        """The next question is answered by a new look."""
        self._health.forget()

    def _gauges(self) -> dict[str, float]:
        stored = self.store.records.counts()
        return {
            **{f"registry_storage_{name}": value for name, value in stored.items()},
            "registry_storage_free_bytes": self.store.files.free(),
            "registry_storage_uploads": len(self.store.uploads),
        }

    def status(self) -> dict[str, object]:
        """For those who started it."""
        return {
            "addresses": self.addresses,
            "tls": bool(self.settings.http.tls.certificate),
            "root": str(self.settings.root),
            "readonly": self.settings.storage.maintenance.readonly.enabled,
            "proxy": self.settings.proxy.remoteurl,
            **self.store.records.counts(),
        }


def common_headers(settings: Settings) -> dict[str, str]:
    """What every reply carries."""
    return {
        "Docker-Distribution-Api-Version": "registry/2.0",
        "Server": f"Longshore/{__version__}",
        "X-Content-Type-Options": "nosniff",
        **{name: ", ".join(values) for name, values in settings.http.headers.items()},
    }


async def _every(interval: float, work: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(interval)
        try:
            await in_thread(work)
        except Exception:
            log.exception("a chore of the registry failed; it is tried again in %.0f s", interval)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
