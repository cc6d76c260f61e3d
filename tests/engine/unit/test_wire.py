import os
import socket
import tempfile

import msgspec
import pytest

from longshore.errors import Internal
from longshore.oci.runtime_spec import Process, Spec
from longshore.runtime import wire
from longshore.runtime.messages import Exec, Launch, LogTarget, PlainRoot, Resize, Start


def test_messages_come_out_as_they_went_in_however_the_stream_is_cut() -> None:
    messages = [Start(), Resize(24, 80, "abc"), Exec("x", Process(args=("echo", "ü")))]
    stream = b"".join(map(wire.encode, messages))
    for size in (1, 3, 7, len(stream)):
        splitter, received = wire.Splitter(), []
        for start in range(0, len(stream), size):
            splitter.feed(stream[start : start + size])
            while (body := splitter.next()) is not None:
                received.append(wire.request_decoder.decode(body))
        assert received == messages


def test_what_follows_a_message_is_left_for_the_stream() -> None:
    splitter = wire.Splitter()
    splitter.feed(wire.encode(Start()) + b"raw input")
    assert splitter.next() is not None
    assert splitter.rest() == b"raw input"
    assert splitter.rest() == b""


def test_an_absurd_length_is_refused() -> None:
    splitter = wire.Splitter()
    splitter.feed(b"\xff\xff\xff\xff")
    with pytest.raises(Internal, match="refused"):
        splitter.next()


def test_a_launch_survives_the_wire() -> None:
    launch = Launch(
        "id", Spec(process=Process(args=("a",))), PlainRoot("/r"), "/s", "/e", LogTarget("/l", 10, 3)
    )
    splitter = wire.Splitter()
    splitter.feed(wire.encode(launch))
    body = splitter.next()
    assert body is not None and wire.launch_decoder.decode(body) == launch


@pytest.mark.parametrize("body", [b"{}", b'{"type":"nothing"}', b'{"type":"resize"}', b"[]", b"\xff", b""])
def test_rubbish_is_a_decoding_error(body: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        wire.request_decoder.decode(body)


def test_descriptors_travel_beside_their_message_and_close_on_exec() -> None:
    left, right = socket.socketpair()
    with left, right, tempfile.TemporaryFile() as file:
        file.write(b"content")
        file.flush()
        data = wire.encode(Start())
        assert wire.send(left, data, [file.fileno(), file.fileno()]) == len(data)
        received, descriptors = wire.receive(right)
        assert received == data
        assert [os.pread(fd, 7, 0) for fd in descriptors] == [b"content", b"content"]
        assert not any(os.get_inheritable(fd) for fd in descriptors)
        for fd in descriptors:
            os.close(fd)


def test_the_end_of_the_stream_is_empty() -> None:
    left, right = socket.socketpair()
    left.close()
    with right:
        assert wire.receive(right) == (b"", [])
