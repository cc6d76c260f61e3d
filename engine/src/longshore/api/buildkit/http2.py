"""One HTTP/2 connection over a hijacked one, as server or as client: streams with headers, data and trailers.

h2 knows the protocol (RFC 9113); here is what it leaves to its user: who waits for which bytes, how much may wait, and
what ends when the connection does. Nothing here knows gRPC.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import FlowControlError, ProtocolError
from h2.settings import SettingCodes

from longshore.api.http import ClientStream
from longshore.errors import Unavailable

log = logging.getLogger("longshore.api.buildkit")
logging.getLogger("hpack").setLevel(logging.INFO)  # its debug lines are every header, logins included

WINDOW = 4 << 20  # bytes of one stream that may arrive before its reader took them
CONNECTION_WINDOW = 16 << 20
FRAME = 1 << 18  # the largest frame we take: fewer of them cost less than h2's 16 KiB
MAX_STREAMS = 200  # at a time; buildx needs about ten
MAX_HEADERS = 1 << 18  # the exclude patterns of a long .dockerignore travel in headers
Headers = Sequence[tuple[str, str]]  # a name may come more than once


class Stream:
    """One request and its reply. All is received in order; `headers` and `trailers` are the peer's."""

    def __init__(self, connection: "Connection", number: int) -> None:
        self._connection = connection
        self.number = number
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.reset: str = ""  # why the peer (or the end of the connection) broke it off
        self.ended = False  # the peer sends no more
        self.closed = False  # we send no more
        self._chunks: deque[tuple[bytes, int]] = deque()
        self._changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def head(self) -> dict[str, str]:
        """The peer's headers. Raises Unavailable when the stream ends without."""
        while not self.headers:
            self._check()
            if self.ended:
                raise Unavailable("the client's session gave no answer")
            await self._wait()
        return self.headers

    async def receive(self) -> bytes:
        """The next bytes; b"" at the end. Raises Unavailable when the stream was broken off."""
        while not self._chunks:
            self._check()
            if self.ended:
                return b""
            await self._wait()
        data, controlled = self._chunks.popleft()
        await self._connection.taken(self, controlled)
        return data

    async def send_head(self, headers: Headers, *, end: bool = False) -> None:
        self._check()
        self.closed = self.closed or end
        await self._connection.send_headers(self, headers, end=end)

    async def send(self, data: bytes) -> None:
        """Returns once all is on its way: the peer's window decides how fast."""
        view = memoryview(data)
        while view:
            self._check()
            room = self._connection.room(self)
            if not room:
                await self._wait()
                continue
            await self._connection.send_data(self, bytes(view[:room]))
            view = view[room:]

    async def end(self) -> None:
        """Close our half; twice is fine."""
        if not self.closed and not self.reset:
            self.closed = True
            await self._connection.send_end(self)

    async def cancel(self) -> None:
        """Break the stream off unless both sides have ended it; twice is fine."""
        if not self.reset and not (self.ended and self.closed):
            self.reset = "cancelled"
            await self._connection.send_reset(self)
        self._connection.forget(self)

    def _check(self) -> None:
        if self.reset:
            raise Unavailable("the connection to the client broke off", detail=self.reset)

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # What the connection tells

    def push(self, data: bytes, controlled: int) -> None:
        self._chunks.append((data, controlled))
        self._changed.set()

    def wake(self) -> None:
        self._changed.set()

    def waiting(self) -> int:
        """Bytes of the connection's window that nobody took."""
        return sum(controlled for _, controlled in self._chunks)


class Connection:
    """`serve` runs it until the peer closes. As a server every stream is given to `accept` in a task of its own."""

    def __init__(
        self, wire: ClientStream, *, accept: Callable[[Stream], Awaitable[None]] | None = None
    ) -> None:
        self._wire, self._accept = wire, accept
        self._h2 = H2Connection(H2Configuration(client_side=accept is None, header_encoding="latin-1"))
        self._streams: dict[int, Stream] = {}
        self._ready = asyncio.Event()
        self.closed = False

    async def serve(self) -> None:
        """Returns at the end of the connection; every stream still open is broken off, its task cancelled."""
        reason = "the client closed the connection"
        try:
            await self._begin()
            while not self.closed and (data := await self._wire.read()):
                try:
                    events = self._h2.receive_data(data)
                except ProtocolError as error:
                    reason = f"it violates HTTP/2: {error}"
                    log.info("BuildKit client: %s", reason)
                    break
                for event in events:
                    self._handle(event)
                await self._flush()
            await self._flush()  # GOAWAY with the reason
        except ConnectionError as error:
            reason = str(error)
        finally:
            await self._end(reason)

    async def open(self, headers: Headers) -> Stream:
        """A new stream of ours. Raises Unavailable when the connection is closed."""
        await self._ready.wait()
        if self.closed:
            raise Unavailable("the client's session is closed")
        stream = Stream(self, self._h2.get_next_available_stream_id())
        self._streams[stream.number] = stream
        await self.send_headers(stream, headers, end=False)
        return stream

    async def close(self) -> None:
        """Say goodbye; the peer closes the connection then."""
        if not self.closed:
            self._h2.close_connection()
            await self._flush()
        self.closed = True

    async def _begin(self) -> None:
        self._h2.initiate_connection()
        self._h2.update_settings(
            {
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                SettingCodes.MAX_FRAME_SIZE: FRAME,
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS,
            }
        )
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
        await self._flush()
        self._ready.set()

    async def _end(self, reason: str) -> None:
        self.closed = True
        self._ready.set()
        tasks: list[asyncio.Task[None]] = []
        for stream in self._streams.values():
            if not stream.ended or not stream.closed:
                stream.reset = stream.reset or reason
            stream.wake()
            if stream.task is not None:
                stream.task.cancel()
                tasks.append(stream.task)
        await asyncio.gather(*tasks, return_exceptions=True)

    # What h2 found in the bytes

    def _handle(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._begun(event)
            return
        if isinstance(event, ConnectionTerminated):
            self.closed = True
            return
        if isinstance(event, RemoteSettingsChanged):
            self._wake_all()
            return
        number = cast("int | None", getattr(event, "stream_id", None))
        if isinstance(event, WindowUpdated) and not number:
            self._wake_all()
            return
        stream = self._streams.get(number or 0)
        if stream is None:
            if isinstance(event, DataReceived):  # of a stream that we gave up
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            return
        if isinstance(event, DataReceived):
            stream.push(event.data or b"", event.flow_controlled_length or 0)
        elif isinstance(event, ResponseReceived):
            stream.headers = _fields(event.headers)
        elif isinstance(event, TrailersReceived):
            stream.trailers = _fields(event.headers)
        elif isinstance(event, StreamEnded):
            stream.ended = True
        elif isinstance(event, StreamReset):
            if stream.ended and event.error_code == ErrorCodes.NO_ERROR:
                stream.closed = (
                    True  # a complete reply; Go's server wants no more of the request (RFC 9113, 8.1)
                )
            else:
                stream.reset = f"it reset the stream, error {event.error_code}"
            if stream.task is not None:
                stream.task.cancel()
        stream.wake()

    def _begun(self, event: RequestReceived) -> None:
        stream = Stream(self, event.stream_id or 0)
        stream.headers = _fields(event.headers)
        self._streams[stream.number] = stream
        assert self._accept is not None  # h2 gives requests to servers only
        stream.task = asyncio.create_task(self._run(stream))

    async def _run(self, stream: Stream) -> None:
        assert self._accept is not None
        try:
            await self._accept(stream)
        except (ConnectionError, Unavailable) as error:
            log.debug("BuildKit client: %s", error)
        except Exception:
            log.exception("defect in a BuildKit call")
        finally:
            try:
                await stream.cancel()
            except ConnectionError:
                pass

    def _wake_all(self) -> None:
        for stream in self._streams.values():
            stream.wake()

    # What streams send

    def room(self, stream: Stream) -> int:
        """How many bytes may be sent now in one frame."""
        try:
            window = self._h2.local_flow_control_window(stream.number)
        except ProtocolError:
            stream.reset = stream.reset or "the stream is closed"
            return 0
        return min(window, self._h2.max_outbound_frame_size)

    async def send_headers(self, stream: Stream, headers: Headers, *, end: bool) -> None:
        self._h2_call(stream, lambda: self._h2.send_headers(stream.number, list(headers), end_stream=end))
        await self._flush()

    async def send_data(self, stream: Stream, data: bytes) -> None:
        self._h2_call(stream, lambda: self._h2.send_data(stream.number, data))
        await self._flush()

    async def send_end(self, stream: Stream) -> None:
        self._h2_call(stream, lambda: self._h2.end_stream(stream.number))
        await self._flush()

    async def send_reset(self, stream: Stream) -> None:
        if not self.closed:
            try:
                # After a complete reply it is no error, only that the rest of the request is not wanted.
                code = ErrorCodes.NO_ERROR if stream.closed else ErrorCodes.CANCEL
                self._h2.reset_stream(stream.number, code)
            except ProtocolError:
                return  # closed already
            await self._flush()

    async def taken(self, stream: Stream, controlled: int) -> None:
        """The reader took bytes: the peer may send as many again."""
        if controlled and not self.closed:
            try:
                self._h2.acknowledge_received_data(controlled, stream.number)
            except (ProtocolError, FlowControlError):
                return
            await self._flush()

    def forget(self, stream: Stream) -> None:
        """The stream is over; what nobody read of it no longer counts against the connection."""
        if self._streams.pop(stream.number, None) is not None and not self.closed:
            left = stream.waiting()
            if left:
                try:
                    self._h2.acknowledge_received_data(left, stream.number)
                except ProtocolError:
                    pass

    def _h2_call(self, stream: Stream, call: Callable[[], None]) -> None:
        if self.closed:
            raise Unavailable("the connection to the client is closed")
        try:
            call()
        except ProtocolError as cause:
            stream.reset = stream.reset or str(cause)
            raise Unavailable("the connection to the client broke off", detail=str(cause)) from cause

    async def _flush(self) -> None:
        """What h2 has to say goes out at once: order is kept because nothing waits between the two."""
        data = self._h2.data_to_send()
        if data:
            await self._wire.write(data)


def _fields(pairs: object) -> dict[str, str]:
    """Header fields as text; repeated ones joined by a comma, as gRPC has them."""
    found: dict[str, str] = {}
    for name, value in cast("list[tuple[str, str]]", pairs or []):
        found[name] = f"{found[name]},{value}" if name in found else value
    return found
