"""Protocol Buffers by hand: against the format's own examples, and against everything hostile."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.api.buildkit.messages import Op
from longshore.api.buildkit.messages_control import SolveRequest, StatusResponse
from longshore.api.buildkit.messages_session import Packet, Stat
from longshore.api.buildkit.wire import (
    MAX_DEPTH,
    Message,
    Timestamp,
    boolean,
    integer,
    message,
    message_map,
    raw_map,
    text,
    texts,
)
from longshore.errors import InvalidArgument


@dataclass(slots=True)
class Inner(Message):
    number: int = integer(1)
    name: str = text(2)


@dataclass(slots=True)
class Outer(Message):
    inner: Inner | None = message(1, Inner)
    names: list[str] = texts(2)
    values: dict[str, bytes] = raw_map(3)
    flag: bool = boolean(4)
    named: dict[str, Inner] = message_map(5, Inner)


# https://protobuf.dev/programming-guides/encoding/
@pytest.mark.parametrize(
    ("message", "encoded"),
    [
        (Inner(number=150), "089601"),
        (Inner(name="testing"), "120774657374696e67"),
        (Inner(number=-2), "08feffffffffffffffff01"),
        (Inner(), ""),
        (Outer(inner=Inner(150)), "0a03089601"),
        (Outer(inner=Inner()), "0a00"),
        (Outer(names=["a", ""]), "1201611200"),
        (Outer(values={"k": b"v"}), "1a060a016b120176"),
        (Outer(flag=True), "2001"),
    ],
)
def test_examples_both_ways(message: Message, encoded: str) -> None:
    assert message.encode().hex() == encoded
    assert type(message).decode(bytes.fromhex(encoded)) == message


@given(
    st.builds(
        Outer,
        inner=st.none() | st.builds(Inner, st.integers(-(2**63), 2**63 - 1), st.text()),
        names=st.lists(st.text()),
        values=st.dictionaries(st.text(), st.binary()),
        flag=st.booleans(),
        named=st.dictionaries(st.text(), st.builds(Inner)),
    )
)
def test_what_is_encoded_is_decoded(message: Outer) -> None:
    assert Outer.decode(message.encode()) == message


def test_unknown_fields_of_every_wire_type_are_skipped() -> None:
    unknown = bytes.fromhex("f80105f9010102030405060708fa0103616263fd0101020304")
    assert Inner.decode(unknown + Inner(7, "x").encode() + unknown) == Inner(7, "x")


def test_a_name_that_is_no_utf8_keeps_its_bytes() -> None:
    assert Stat.decode(b"\x0a\x03a\xffb").encode() == b"\x0a\x03a\xffb"


@pytest.mark.parametrize(
    "encoded",
    ["08", "0896", "1205", "12ff01", "0b", "0c", "0e", "08ffffffffffffffffffff01", "0a0208", "1001", "0d01020304"],
    ids=["no value", "half a number", "no bytes", "too few bytes", "group", "group's end", "wire type 6",
         "70 bits", "cut off within", "number for a text", "float for a number"],
)  # fmt: skip
def test_what_is_no_message_is_refused(encoded: str) -> None:
    with pytest.raises(InvalidArgument, match="malformed message"):
        Outer.decode(bytes.fromhex(encoded)) if encoded in ("0a0208",) else Inner.decode(
            bytes.fromhex(encoded)
        )


def test_messages_nest_only_so_deep() -> None:
    """Raised as an error, never as a RecursionError of the daemon."""

    @dataclass(slots=True)
    class Leaf(Message):
        number: int = integer(2)

    kind: type[Message] = Leaf
    data = b""
    for _ in range(MAX_DEPTH + 2):
        kind = dataclass(slots=True)(
            type("Level", (Message,), {"__annotations__": {"next": object}, "next": message(1, kind)})
        )
        data = b"\x0a" + _varint(len(data)) + data
    with pytest.raises(InvalidArgument, match="within each other"):
        kind.decode(data)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for kind in (SolveRequest, StatusResponse, Packet, Op):
        try:
            kind.decode(data)
        except InvalidArgument:
            pass


def test_times_have_nanoseconds() -> None:
    assert Timestamp.of(1_700_000_000_123_456_789) == Timestamp(1_700_000_000, 123_456_789)
