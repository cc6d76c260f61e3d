"""One client connection: bytes in, request, reply, bytes out; keep-alive, streams and hijacks.

h11 reads and frames HTTP/1.1 (docs/decisions/0001-own-http-server.md). Half-close is real: `docker run -i` shuts
its writing half and still wants all output.
"""

import asyncio
import fcntl
import logging
import select
import sys
import termios
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import cast

import h11
import msgspec

from longshore.api.errors import error_line
from longshore.api.heads import GO_AHEAD, Head, judge_beginning, read_head, response, switching, unframed
from longshore.api.http import AnyReply, Hijack, Reply, Stream
from longshore.errors import EngineError, InvalidArgument

log = logging.getLogger("longshore.api")

MAX_HEAD = 1 << 20  # Go's default too; X-Registry-Config of `docker build` carries every known login
MESSAGE_LIMIT = 500  # h11's messages repeat what they complain of
READ_AHEAD = 1 << 20  # bytes that may wait in memory before we stop reading
# Passes through h11 at a time. It copies what it gets; from 128 KiB on each copy is new memory of the kernel, and
# its page faults cost more than everything else about an upload or a download.
PIECE = 1 << 16
DRAIN_LIMIT = 1 << 18  # an unread body up to this size is skipped to keep the connection, as Go does
LINGER_SECONDS = 2.0
HEAD_SECONDS = 1.0  # how long a hijacked stream's first bytes wait for the client to read the reply's head
PROBE_SECONDS = 5.0  # how often a half-closed hijacked connection is asked whether its peer still exists

Dispatch = Callable[[Head, "Body", bool], Awaitable[AnyReply]]


class Inbox:
    """All bytes that arrived and wait for h11 or a hijack's reader; stops the transport when too many wait."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False

    def push(self, data: bytes) -> None:
        self._chunks.extend(_pieces(data))
        self._size += len(data)
        if self._size > READ_AHEAD:
            self._connection.pause_reading()
        self.wake()

    def put_back(self, data: bytes) -> None:
        if data:
            self._chunks.appendleft(data)
            self._size += len(data)

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

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self.complete = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.complete:
            raise StopAsyncIteration
        try:
            self._connection.go_ahead()
            event = await self._connection.next_event()
        except h11.RemoteProtocolError as cause:
            raise InvalidArgument("cannot read the request body", detail=str(cause)) from cause
        if isinstance(event, h11.Data):
            return event.data
        self.complete = True
        raise StopAsyncIteration

    async def skip(self) -> bool:
        """Read the rest away. False when that is too much or impossible."""
        skipped = 0
        try:
            async for data in self:
                skipped += len(data)
                if skipped > DRAIN_LIMIT:
                    return False
        except InvalidArgument:
            return False
        return True


class Hijacked:
    """The client's side of a hijacked connection (api.http.ClientStream)."""

    def __init__(self, connection: "Connection", inbox: Inbox) -> None:
        self._connection = connection
        self._inbox = inbox
        self._begun = False

    async def read(self) -> bytes:
        return await self._inbox.pop()

    async def write(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            await self._connection.head_taken()
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
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._inbox = Inbox(self)
        self._drained: asyncio.Future[None] | None = None
        self._read_paused = self._write_paused = False
        self._eof = self._lost = self._closing = self._cancelled = False
        self._streaming = False  # cancelled as soon as the client is gone
        self._hijacked = False
        self.idle = True

    # What the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1 << 18)
        self._serving.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._inbox.push(data)

    def eof_received(self) -> bool:
        self._eof = True
        self._inbox.end()
        if self._hijacked:
            asyncio.get_running_loop().call_later(PROBE_SECONDS, self._probe)
        elif self._streaming:
            self._cancel()
        return True  # half-closed: our half stays open until we close it

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = self._lost = True
        self._serving.discard(self)
        self._inbox.end()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._streaming or self._hijacked:
            self._cancel()

    def _cancel(self) -> None:
        """Once only: a second cancellation would tear up the clean-up that the first one began."""
        if not self._cancelled and self._task is not None:
            self._cancelled = True
            self._task.cancel()

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

    async def head_taken(self) -> None:
        """Wait a moment until a client on a unix socket has read what was written so far.

        docker-py reads the head through a buffer and then the raw socket: what comes in one packet with the head
        is lost to it. Docker is slow enough never to be that fast.
        """
        if self._tcp or self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        deadline = time.monotonic() + HEAD_SECONDS
        while not self._lost and time.monotonic() < deadline:
            pending = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))  # unix(7): SIOCOUTQ
            if not int.from_bytes(pending, sys.byteorder):
                return
            await asyncio.sleep(0.001)

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
        if self.idle or self._streaming or self._hijacked:
            self._cancel()

    async def ended(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])

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

    async def next_event(self) -> h11.Event | type[h11.PAUSED]:
        """What the client said next. Raises h11.RemoteProtocolError."""
        judged = self._http.their_state is not h11.IDLE
        while (event := self._http.next_event()) is h11.NEED_DATA:
            judged = judged or judge_beginning(self._http.trailing_data[0])
            self._http.receive_data(await self._inbox.pop())
        return cast("h11.Event | type[h11.PAUSED]", event)

    def go_ahead(self) -> None:
        """Tell a client that asked for it to send its body (RFC 9110, section 10.1.1)."""
        if self._http.they_are_waiting_for_100_continue:
            self.write(self._http.send(GO_AHEAD))

    async def _serve(self) -> None:
        try:
            await self._converse()
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

    async def _converse(self) -> None:
        """Requests and replies until one side ends it."""
        try:
            while isinstance(request := await self.next_event(), h11.Request):
                head, body = read_head(request), Body(self)
                self.idle = False
                if head.bodyless:
                    await body.skip()
                if not await self._exchange(head, body):
                    if not body.complete and not self._hijacked:
                        await self._linger()
                    return
                self._http.start_next_cycle()
                self.idle = True
        except h11.RemoteProtocolError as error:
            self._refuse(error)
            await self._linger()

    async def _exchange(self, head: Head, body: Body) -> bool:
        """Serve one request; returns whether the connection can carry another."""
        reply = await self._dispatch(head, body, self._tcp)
        if isinstance(reply, Hijack):
            await self._hijack(head, reply, body)
            return False
        if isinstance(reply, Stream):
            await self._send_stream(head, reply, body)
        else:
            self._send(head, reply, body)
            await self.drain()
        # Anything else than DONE: a stream broke off, or one side said that it wants to close.
        return self._http.our_state is h11.DONE and not self._closing and await body.skip()

    async def _linger(self) -> None:
        """Closing while the client still sends would reset the connection before it has read our reply."""
        self.write_eof()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while await self._inbox.pop():
                    pass
        except TimeoutError:
            pass  # it had its time

    def _headers(self, reply: Reply | Stream, body: Body) -> dict[str, str]:
        headers = {**self._common, "Date": _date(), **reply.headers}
        missing = self._eof or self._http.they_are_waiting_for_100_continue
        if self._closing or (missing and not body.complete):
            headers["Connection"] = "close"
        return headers

    def _send(self, head: Head, reply: Reply, body: Body) -> None:
        headers = self._headers(reply, body)
        payload = b""
        if isinstance(reply.body, bytes):
            payload = reply.body
        elif reply.body is not None:
            payload = msgspec.json.encode(reply.body) + b"\n"
            headers.setdefault("Content-Type", "application/json")
        if reply.status in (204, 304):
            payload = b""
        else:
            headers.setdefault("Content-Length", str(len(payload)))
        data = self._http.send(response(reply.status, headers))
        if payload and head.method != "HEAD":
            data += self._http.send(h11.Data(payload))
        self.write(data + self._http.send(h11.EndOfMessage()))

    async def _send_stream(self, head: Head, reply: Stream, body: Body) -> None:
        self._streaming = True
        try:
            if self._eof:
                return
            self.go_ahead()  # now or never: the stream may read the body, and after its head it is too late
            headers = self._headers(reply, body)
            headers.setdefault("Content-Type", reply.content_type)
            self.write(self._http.send(response(reply.status, headers)))
            if head.method == "HEAD" or await self._pump(reply):
                self.write(self._http.send(h11.EndOfMessage()))
                await self.drain()
        finally:
            self._streaming = False
            close = getattr(reply.chunks, "aclose", None)
            if close is not None:
                await close()

    async def _pump(self, reply: Stream) -> bool:
        """Send all chunks. False: it failed half-way, and an unfinished body tells the client so."""
        try:
            async for data in reply.chunks:
                for piece in _pieces(data):
                    self.write(self._http.send(h11.Data(piece)))
                    if self._write_paused:
                        await self.drain()
            return True
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            if isinstance(error, EngineError):
                log.warning("a stream was cut off: %s", error)
            else:
                log.exception("defect in a stream")
            if reply.content_type != "application/json":
                return False
            message = str(error) if isinstance(error, EngineError) else "internal error, see the daemon's log"
            self.write(self._http.send(h11.Data(error_line(message))))
            return True

    async def _hijack(self, head: Head, reply: Hijack, body: Body) -> None:
        await body.skip()
        self._hijacked = True
        self._inbox.put_back(self._http.trailing_data[0])
        if self._eof:
            asyncio.get_running_loop().call_later(PROBE_SECONDS, self._probe)
        headers = {**self._common, "Content-Type": reply.content_type, **reply.headers}
        if head.upgrade:
            headers |= {"Connection": "Upgrade", "Upgrade": head.headers["upgrade"]}
            self.write(self._http.send(switching(headers)))
        else:
            self.write(unframed(response(200, headers)))
        try:
            await reply.serve(Hijacked(self, self._inbox))
        except EngineError as error:
            log.warning("hijacked stream of %s: %s", head.target, error)
        self.write_eof()

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """Answer a request that cannot be understood; the connection cannot go on."""
        body = msgspec.json.encode({"message": str(error)[:MESSAGE_LIMIT]}) + b"\n"
        headers = {
            **self._common,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        self.write(unframed(response(error.error_status_hint, headers)) + body)


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + PIECE] for start in range(0, len(data), PIECE))


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
