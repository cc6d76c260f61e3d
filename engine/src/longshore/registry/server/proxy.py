"""A pull-through cache of another registry: what it lacks it fetches, and sends on while it comes.

Manifests by digest and blobs never change, so they are asked for once. A tag is looked up each time; when the other
registry does not answer, the last known one is served, and the reply says so in a Warning header.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable
from urllib.parse import urlencode
from weakref import WeakValueDictionary

import msgspec
from aiohttp import web

from longshore.errors import EngineError, NotFound, Unavailable
from longshore.oci.descriptor import OCI_INDEX
from longshore.oci.digest import Digest, parse_digest
from longshore.registry.server.api_blobs import blob_headers, send_stored
from longshore.registry.server.calls import Call, head
from longshore.registry.server.flights import Flight, fly
from longshore.registry.server.manifests import judge
from longshore.registry.server.refusals import Code, Refused
from longshore.registry.server.store import Store
from longshore.registry.server.threads import in_thread
from longshore.registry.server.upstream import Upstream

log = logging.getLogger("longshore.registry.server")
_NEXT = re.compile(r"<[^>?]*\?([^>]*)>\s*;\s*rel=\"?next\"?")


class Proxy:
    """calls.Cache. `count(name)` is told hits and misses."""

    def __init__(self, store: Store, upstream: Upstream, count: Callable[[str, float], None]) -> None:
        self._store, self._upstream, self._count = store, upstream, count
        self._flights: dict[tuple[str, str], Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def close(self) -> None:
        """Downloads that nobody will wait for end; what has come is dropped."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._upstream.close()

    # Manifests

    async def refresh_manifest(self, repository: str, reference: Digest | str) -> None:
        """See calls.Cache. Raises Unavailable and the like when there is nothing to fall back on."""
        lock = self._locks.setdefault(f"{repository} {reference}", asyncio.Lock())
        async with lock:  # many clients that ask at once cost the other registry one request
            if isinstance(reference, Digest):
                await self._by_digest(repository, reference)
            else:
                await self._by_tag(repository, reference)

    async def _by_digest(self, repository: str, digest: Digest) -> None:
        if self._store.records.manifest_size(repository, str(digest)) is not None:
            self._count("hits", 1)
            await in_thread(self._store.records.touch_manifest, repository, str(digest))
            return
        try:
            await self._fetch_manifest(repository, str(digest), digest, ())
        except NotFound:
            return

    async def _by_tag(self, repository: str, tag: str) -> None:
        known = self._store.records.tag(repository, tag)
        try:
            current = await self._upstream.digest_of_tag(repository, tag)
            if (
                current
                and current == known
                and self._store.records.manifest_size(repository, known) is not None
            ):
                self._count("hits", 1)
                await in_thread(self._store.records.touch_manifest, repository, known, tag)
                return
            await self._fetch_manifest(repository, tag, None, (tag,))
        except NotFound:
            if known:  # it was deleted there, so it is gone here
                await in_thread(self._store.records.delete_tag, repository, tag)
        except EngineError as error:
            if not known:
                raise
            self._count("stale", 1)
            log.warning("%s:%s is served as it was: %s", repository, tag, error)

    async def _fetch_manifest(
        self, repository: str, reference: str, expected: Digest | None, tags: tuple[str, ...]
    ) -> None:
        data, kind = await self._upstream.manifest(repository, reference)
        algorithm = expected.algorithm if expected else "sha256"
        digest = parse_digest(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")
        if expected is not None and digest != expected:
            raise _nonsense(f"{self._upstream.name} sent other bytes than {expected}")
        try:
            judged = judge(data, kind)
        except Refused as cause:
            raise _nonsense(f"{self._upstream.name}: {cause.why}") from cause
        self._count("misses", 1)
        put = self._store.put_manifest
        await in_thread(put, repository, digest, data, judged, tags, whole=False)

    # Blobs

    async def send_blob(self, call: Call, digest: Digest) -> web.StreamResponse:
        """See calls.Cache. Two clients that want the same blob share one download."""
        if call.is_head:
            try:
                size = await self._upstream.blob_size(call.name, digest)
            except NotFound as cause:
                raise Refused(Code.BLOB_UNKNOWN, f"{digest} in {call.name}") from cause
            return head({**call.parts.common, **blob_headers(digest)}, size)
        flight = self._flight(call.name, digest)
        if call.request.headers.get("Range"):
            await flight.finished()
            size = self._store.records.blob_size(call.name, str(digest))
            if size is None:
                raise Refused(Code.BLOB_UNKNOWN, f"{digest} in {call.name}")
            return await send_stored(call, digest, size)
        return await flight.send(call, {**call.parts.common, **blob_headers(digest)})

    def _flight(self, repository: str, digest: Digest) -> Flight:
        key = repository, str(digest)
        if flight := self._flights.get(key):
            return flight
        upload = self._store.uploads.start(repository, digest.algorithm)
        flight = self._flights[key] = Flight(upload, digest)
        task = asyncio.create_task(self._run(key, flight))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight

    async def _run(self, key: tuple[str, str], flight: Flight) -> None:
        try:
            await fly(flight, self._upstream)
            await in_thread(self._store.finish_upload, flight.upload, flight.digest)
            self._count("misses", 1)
            self._count("bytes", flight.upload.size)
            flight.land()
        except NotFound:
            flight.fail(Refused(Code.BLOB_UNKNOWN, f"{flight.digest} in {flight.upload.repository}"))
        except EngineError as error:
            log.warning("%s of %s did not come: %s", flight.digest, flight.upload.repository, error)
            flight.fail(_nonsense(str(error)) if isinstance(error, Refused) else error)
        except BaseException:
            flight.fail(Unavailable("the download was broken off"))
            raise
        finally:
            self._flights.pop(key, None)
            flight.close()
            self._store.uploads.drop(flight.upload)

    # Lists

    async def list_tags(self, call: Call) -> web.StreamResponse | None:
        """See calls.Cache."""
        query = {name: call.query[name] for name in ("n", "last") if name in call.query}
        try:
            found = await self._document(call, "tags/list", query)
        except NotFound as cause:
            raise Refused(Code.NAME_UNKNOWN, call.name, detail={"name": call.name}) from cause
        return (
            web.Response(body=found[0], headers={"Content-Type": "application/json", **found[1]})
            if found
            else None
        )

    async def list_referrers(self, call: Call, subject: Digest) -> web.StreamResponse | None:
        """See calls.Cache."""
        query = {name: call.query[name] for name in ("artifactType", "last") if name in call.query}
        try:
            found = await self._document(call, f"referrers/{subject}", query)
        except NotFound:  # it has no such endpoint
            return None
        return web.Response(body=found[0], headers={"Content-Type": OCI_INDEX, **found[1]}) if found else None

    async def _document(
        self, call: Call, tail: str, query: dict[str, str]
    ) -> tuple[bytes, dict[str, str]] | None:
        path = f"{tail}?{urlencode(query)}" if query else tail
        try:
            data, link = await self._upstream.document(call.name, path)
            msgspec.json.decode(data)
        except (Unavailable, msgspec.MsgspecError) as error:
            log.warning("the list of %s is our own: %s", call.name, error)
            return None
        after = _NEXT.search(link)
        shown = f'<{call.url(f"/v2/{call.name}/{tail}")}?{after[1]}>; rel="next"' if after else ""
        return data, {"Link": shown} if shown else {}


def _nonsense(why: str) -> Refused:
    """The other registry's fault, not the client's."""
    return Refused(Code.UNKNOWN, why, status=502)
