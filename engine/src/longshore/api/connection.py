"""One client connection: bytes in, request, reply, bytes out; keep-alive, streams and hijacks.

Half-close is real: `docker run -i` shuts its writing half and still wants all output.
"""

import asyncio
import logging
import select
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import cast

import msgspec

from longshore.api import wire
from longshore.api.errors import error_line
from longshore.api.http import AnyReply, Hijack, Reply, Stream
from longshore.errors import EngineError, InvalidArgument

log = logging.getLogger("longshore.api")

READ_AHEAD = 1 << 20  # bytes of a body or hijacked stream that may wait in memory before we stop reading
DRAIN_LIMIT = 1 << 18  # an unread body up to this size is skipped to keep the connection, as Go does
LINGER_SECONDS = 2.0
PROBE_SECONDS = 5.0  # how often a half-closed hijacked connection is asked whether its peer still exists

Dispatch = Callable[[wire.Head, "Body", bool], Awaitable[AnyReply]]


class Inbox:
    """Bytes that arrived and wait for a reader; stops the transport when too many wait."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False

    def push(self, data: bytes) -> None:
        if data:
            self._chunks.append(data)
            self._size += len(data)
            if self._size > READ_AHEAD:
                self._connection.pause_reading()
        self.wake()

    def end(self) -> None:
        self.ended = True
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def pop(self) -> bytes:
        """The next bytes, b"" at the end."""
        while not self._chunks:
            if self.ended:
                return b""
            self._connection.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._size <= READ_AHEAD // 2:
            self._connection.resume_reading()
        return data


class Body:
    """A request's body as an asynchronous iterable; InvalidArgument when it is cut off or malformed."""

    def __init__(self, connection: "Connection", decoder: wire.Decoder, *, wants_continue: bool) -> None:
        self._connection = connection
        self._decoder = decoder
        self._inbox = Inbox(connection)
        self._failure = ""
        self._wants_continue = wants_continue
        if decoder.done:
            self._inbox.end()

    @property
    def complete(self) -> bool:
        return self._decoder.done

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the body; returns the rest."""
        try:
            payload, rest = self._decoder.feed(data)
        except wire.BadRequest as cause:
            self._failure = str(cause)
            self._inbox.end()
            return b""
        self._inbox.push(payload)
        if self._decoder.done:
            self._inbox.end()
        return rest

    def feed_eof(self) -> None:
        if not self._decoder.done:
            self._failure = self._failure or "unexpected EOF"
        self._inbox.end()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._wants_continue:
            self._wants_continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = await self._inbox.pop()
        if data:
            return data
        if self._failure:
            raise InvalidArgument("cannot read the request body", detail=self._failure)
        raise StopAsyncIteration

    async def discard(self) -> int:
        """Throw the next bytes away; returns how many, 0 at the end."""
        return len(await self._inbox.pop())

    async def skip(self) -> bool:
        """Read the rest away. False when that is too much or impossible: the connection must close."""
        if self._wants_continue:
            return False
        skipped = 0
        while skipped <= DRAIN_LIMIT:
            size = await self.discard()
            if not size:
                return not self._failure
            skipped += size
        return False


class Hijacked:
    """The client's side of a hijacked connection (api.http.ClientStream)."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self.inbox = Inbox(connection)

    async def read(self) -> bytes:
        return await self.inbox.pop()

    async def write(self, data: bytes) -> None:
        self._connection.write(data)
        await self._connection.drain()

    async def write_eof(self) -> None:
        self._connection.write_eof()


class Connection(asyncio.Protocol):
    """Serves one connection with a task of its own; `serving` is the set that knows all connections."""

    def __init__(
        self, dispatch: Dispatch, headers: Mapping[str, str], serving: set["Connection"], *, tcp: bool
    ):
        self._dispatch = dispatch
        self._common = headers
        self._serving = serving
        self._tcp = tcp
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._buffer = bytearray()
        self._body: Body | None = None
        self._hijacked: Hijacked | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._read_paused = self._write_paused = False
        self._eof = self._lost = self._closing = self._cancelled = False
        self._streaming = False  # cancelled as soon as the client is gone
        self.idle = True

    # What the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1 << 18)
        self._serving.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if self._hijacked is not None:
            self._hijacked.inbox.push(data)
            return
        if self._body is not None and not self._body.complete:
            data = self._body.feed(data)
        if data:
            self._buffer += data
            if len(self._buffer) > wire.MAX_HEAD + READ_AHEAD:
                self.pause_reading()
            self._wake()

    def eof_received(self) -> bool:
        self._eof = True
        self._end_of_input()
        if self._hijacked is not None:
            asyncio.get_running_loop().call_later(PROBE_SECONDS, self._probe)
        elif self._streaming:
            self._cancel()
        return True  # half-closed: our half stays open until we close it

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = self._lost = True
        self._serving.discard(self)
        self._end_of_input()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._streaming or self._hijacked is not None:
            self._cancel()

    def _cancel(self) -> None:
        """Once only: a second cancellation would tear up the clean-up that the first one began."""
        if not self._cancelled and self._task is not None:
            self._cancelled = True
            self._task.cancel()

    def _end_of_input(self) -> None:
        if self._hijacked is not None:
            self._hijacked.inbox.end()
        if self._body is not None:
            self._body.feed_eof()
        self._wake()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # What our own side does

    def write(self, data: bytes) -> None:
        if self._lost or self._transport is None:
            raise ConnectionResetError("the client went away")
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written."""
        while self._write_paused and not self._lost:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
        if self._lost:
            raise ConnectionResetError("the client went away")

    def write_eof(self) -> None:
        if self._transport is not None and not self._lost and self._transport.can_write_eof():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        if not self._read_paused and not self._lost and self._transport is not None:
            self._read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._read_paused and not self._lost and self._transport is not None:
            self._read_paused = False
            self._transport.resume_reading()

    def shutdown(self) -> None:
        """The daemon ends: close when idle or streaming; a request in flight becomes the last one."""
        self._closing = True
        if self.idle or self._streaming or self._hijacked is not None:
            self._cancel()

    async def ended(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _probe(self) -> None:
        """A peer that half-closed and then vanished sends nothing: only poll(2) tells, by POLLHUP."""
        if self._lost or self._transport is None:
            return
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        if any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0)):
            self._transport.abort()
            return
        asyncio.get_running_loop().call_later(PROBE_SECONDS, self._probe)

    # The exchange of requests and replies

    async def _serve(self) -> None:
        try:
            while (head := await self._next_head()) is not None:
                self.idle = False
                if not await self._exchange(head) or self._closing:
                    await self._linger()
                    break
                self.idle = True
        except wire.BadRequest as error:
            self._refuse(error)
        except (ConnectionError, TimeoutError) as error:
            log.debug("client went away: %s", error)
        except asyncio.CancelledError:
            if not (self._lost or self._eof or self._closing):
                raise
        except Exception:
            log.exception("defect while serving a connection")
        finally:
            if self._transport is not None:
                self._transport.close()

    async def _next_head(self) -> wire.Head | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            wire.check_beginning(bytes(self._buffer[: wire.MAX_LINE]))
            if len(self._buffer) > wire.MAX_HEAD:
                raise wire.BadRequest("request header fields too large", 431)
            if self._eof:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        head = wire.parse_head(bytes(self._buffer[:end]).lstrip(b"\r\n"))
        del self._buffer[: end + 4]
        return head

    async def _exchange(self, head: wire.Head) -> bool:
        """Serve one request; returns whether the connection can carry another."""
        expects = head.headers.get("expect", "").lower() == "100-continue"
        body = self._body = Body(self, wire.body_decoder(head), wants_continue=expects)
        if self._buffer and not body.complete:
            data, self._buffer = bytes(self._buffer), bytearray()
            self._buffer[:0] = body.feed(data)
        if self._eof:
            body.feed_eof()
        reply = await self._dispatch(head, body, self._tcp)
        if isinstance(reply, Hijack):
            await self._hijack(head, reply)
            return False
        keep = head.keep_alive and not self._closing
        if isinstance(reply, Stream):
            keep = await self._send_stream(head, reply, keep=keep) and keep
        else:
            if not body.complete and (expects or self._eof):
                keep = False
            self._send(head, reply, keep=keep)
            await self.drain()
        return keep and (body.complete or await body.skip())

    async def _linger(self) -> None:
        """Closing while the client still sends would reset the connection before it has read our reply."""
        body = self._body
        if body is None or body.complete or self._eof or self._hijacked is not None:
            return
        self.write_eof()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._eof and await body.discard():
                    pass
        except TimeoutError:
            pass  # it had its time

    def _headers(self, reply: Reply | Stream, *, keep: bool) -> dict[str, str]:
        headers = {**self._common, "Date": _date(), **reply.headers}
        if not keep:
            headers["Connection"] = "close"
        return headers

    def _send(self, head: wire.Head, reply: Reply, *, keep: bool) -> None:
        headers = self._headers(reply, keep=keep)
        payload = b""
        if isinstance(reply.body, bytes):
            payload = reply.body
        elif reply.body is not None:
            payload = msgspec.json.encode(reply.body) + b"\n"
            headers.setdefault("Content-Type", "application/json")
        if reply.status not in (204, 304):
            headers.setdefault("Content-Length", str(len(payload)))
        self.write(wire.encode_head(reply.status, headers) + (b"" if head.method == "HEAD" else payload))

    async def _send_stream(self, head: wire.Head, reply: Stream, *, keep: bool) -> bool:
        """Returns whether the stream was sent to its end."""
        chunked = not head.http_1_0
        headers = self._headers(reply, keep=keep and chunked)
        headers.setdefault("Content-Type", reply.content_type)
        if chunked and "Content-Length" not in headers:
            headers["Transfer-Encoding"] = "chunked"
        else:
            chunked = False
        frame = wire.chunk if chunked else bytes
        self._streaming = True
        try:
            if self._eof:
                return False
            self.write(wire.encode_head(reply.status, headers))
            if head.method == "HEAD":
                return True
            if not await self._pump(reply, frame):
                return False
            if chunked:
                self.write(wire.LAST_CHUNK)
            await self.drain()
            return chunked or "Content-Length" in headers
        finally:
            self._streaming = False
            close = getattr(reply.chunks, "aclose", None)
            if close is not None:
                await close()

    async def _pump(self, reply: Stream, frame: Callable[[bytes], bytes]) -> bool:
        """Send all chunks. False: it failed half-way, and an unfinished body tells the client so."""
        try:
            async for data in reply.chunks:
                if data:
                    self.write(frame(data))
                    if self._write_paused:
                        await self.drain()
            return True
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            if not isinstance(error, EngineError):
                log.exception("defect in a stream")
            if reply.content_type != "application/json":
                return False
            message = str(error) if isinstance(error, EngineError) else "internal error, see the daemon's log"
            self.write(frame(error_line(message)))
            return True

    async def _hijack(self, head: wire.Head, reply: Hijack) -> None:
        stream = self._hijacked = Hijacked(self)
        stream.inbox.push(bytes(self._buffer))
        self._buffer.clear()
        if self._eof:
            stream.inbox.end()
            asyncio.get_running_loop().call_later(PROBE_SECONDS, self._probe)
        self.resume_reading()
        headers = {**self._common, "Content-Type": reply.content_type}
        if head.upgrade:
            headers |= {"Connection": "Upgrade", "Upgrade": head.headers["upgrade"]}
        self.write(wire.encode_head(101 if head.upgrade else 200, headers))
        try:
            await reply.serve(stream)
        except EngineError as error:
            log.warning("hijacked stream of %s: %s", head.target, error)
        self.write_eof()

    def _refuse(self, error: wire.BadRequest) -> None:
        if not self._lost and self._transport is not None:
            body = msgspec.json.encode({"message": str(error)}) + b"\n"
            headers = {
                **self._common,
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Connection": "close",
            }
            self._transport.write(wire.encode_head(error.status, headers) + body)


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_stamp: tuple[int, str] = (0, "")


def _date() -> str:
    """The Date header; made once a second."""
    global _stamp
    now = int(time.time())
    if _stamp[0] != now:
        at = time.gmtime(now)  # not strftime: names of days must not depend on the locale
        day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
        clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
        _stamp = (now, f"{day}, {at.tm_mday:02} {month} {at.tm_year} {clock} GMT")
    return _stamp[1]
