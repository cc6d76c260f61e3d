"""What one pull brings in: blobs go to the content store, and each layer is unpacked while it downloads."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from longshore.core.images.model import Progress
from longshore.errors import Conflict, InvalidArgument, OutOfSpace, Unavailable, Unsupported
from longshore.oci.descriptor import Descriptor
from longshore.oci.digest import Digest, parse_digest
from longshore.oci.image_config import parse_image_config
from longshore.storage.blob_writer import BlobWriter
from longshore.storage.content import ContentStore
from longshore.storage.layers import LayerStore

T = TypeVar("T")
UNPACKED_AT_ONCE = 2


class Turns:
    """One download of a blob at a time; other pulls wait for it and find it done."""

    def __init__(self) -> None:
        self._locks: defaultdict[Digest, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waiting: defaultdict[Digest, int] = defaultdict(int)

    @asynccontextmanager
    async def of(self, digest: Digest) -> AsyncGenerator[None, None]:
        self._waiting[digest] += 1
        try:
            async with self._locks[digest]:
                yield
        finally:
            self._waiting[digest] -= 1
            if not self._waiting[digest]:
                del self._waiting[digest], self._locks[digest]


class Intake:
    """registry.client.Sink of one pull. Unpacking runs in `group`, so that its failure ends the pull."""

    def __init__(
        self,
        content: ContentStore,
        layers: LayerStore,
        turns: Turns,
        group: asyncio.TaskGroup,
        progress: Progress,
        reason: str,
    ) -> None:
        self._content, self._layers, self._turns = content, layers, turns
        self._group, self._progress, self._reason = group, progress, reason
        self._unpacking = asyncio.Semaphore(UNPACKED_AT_ONCE)
        self._diff_ids: dict[str, Digest] = {}
        self._brought: set[Digest] = set()
        self.unpacked: set[str] = set()  # short digests of layers of which all was told

    def has(self, digest: Digest) -> bool:
        return self._content.has(digest)

    def put(self, data: bytes, expected: Digest | None = None) -> Digest:
        return self._content.put(data, expected)

    def expect(self, config: bytes, layers: Sequence[Descriptor]) -> None:
        """Learn what the layers unpack to. Raises InvalidArgument, Unsupported before any of them comes."""
        parsed = parse_image_config(config)
        if parsed.os != "linux":
            raise Unsupported(f"cannot run an image for operating system {parsed.os[:50]!r}")
        if len(parsed.rootfs.diff_ids) != len(layers):
            raise InvalidArgument(
                "invalid image config",
                detail=f"{len(parsed.rootfs.diff_ids)} diff ids for {len(layers)} layers",
            )
        for layer, diff_id in zip(layers, parsed.rootfs.diff_ids, strict=True):
            if self._diff_ids.setdefault(layer.digest, parse_digest(diff_id)) != parse_digest(diff_id):
                raise InvalidArgument(
                    "invalid image config", detail=f"two diff ids for the layer {layer.digest}"
                )

    @asynccontextmanager
    async def download(self, layer: Descriptor) -> AsyncGenerator[BlobWriter, None]:
        """A writer that goes on where an earlier try ended, with a worker that unpacks what it writes."""
        async with self._turns.of(layer.blob):
            if self._content.has(layer.blob):
                raise Conflict("the blob is there", detail=layer.digest)
            with await self._writer(layer) as writer:
                self._brought.add(layer.blob)
                diff_id = self._diff_ids.get(layer.digest)
                if diff_id is not None and not self._layers.has(diff_id):
                    self._group.create_task(self._unpack(layer, diff_id, writer))
                yield writer

    async def _writer(self, layer: Descriptor) -> BlobWriter:
        """Hashes what is there already, so it takes a thread; a cancelled pull does not leave it open."""
        opening = asyncio.ensure_future(
            asyncio.to_thread(self._content.resume, layer.blob, layer.size, self._reason)
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                opening.result().abort(keep=True)
            raise

    def give_up(self, error: BaseException) -> None:
        """After a failure: what was brought stays for the next try, unless it is wrong or has no room."""
        if isinstance(error, (OutOfSpace, InvalidArgument, Unsupported)):
            self._content.release(self._brought)
            self._content.forget_partials(self._brought)

    async def _unpack(self, layer: Descriptor, diff_id: Digest, writer: BlobWriter) -> None:
        short = layer.blob.short
        async with self._unpacking:
            try:
                follower = writer.follow()
            except Conflict:  # complete by now, which is unpacked with the rest; or given up
                return
            try:
                await in_own_thread(lambda: self._layers.unpack_growing(follower, layer.size, diff_id))
            except Unavailable:
                return  # the download has failed, which says why
            finally:
                follower.close()
        self._progress({"status": "Pull complete", "progressDetail": {}, "id": short})
        self.unpacked.add(short)


async def in_own_thread(function: Callable[[], T]) -> T:
    """Like in_thread, but not in one of the few threads of the pool, which this may need to get on."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(value: T | None, error: BaseException | None) -> None:
        if not done.done():
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        try:
            value, error = function(), None
        except BaseException as caught:
            value, error = None, caught
        loop.call_soon_threadsafe(finish, value, error)

    threading.Thread(target=run, name="unpack", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        if not done.cancelled():
            done.exception()  # somebody has looked at it
        raise
