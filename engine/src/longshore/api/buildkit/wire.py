"""Protocol Buffers on the wire: messages as dataclasses, fields by number. Pure.

https://protobuf.dev/programming-guides/encoding/. Only what BuildKit's messages use: varints, strings, bytes,
messages, repeated fields and maps. Unknown fields are skipped, as every reader of proto3 must.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, TypeVar, cast

from longshore.errors import InvalidArgument

T = TypeVar("T")
MAX_DEPTH = 32  # messages within messages; BuildKit's own nest six deep
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Message:
    """Base of all messages. Every field has a default, which is not sent, as in proto3."""

    __slots__ = ()

    def encode(self) -> bytes:
        """The message's bytes; fields in the order of their numbers' declaration."""
        out = bytearray()
        for field in _layout(type(self)).values():
            field.write(out, getattr(self, field.name))
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """Raises InvalidArgument for what is no message of this kind."""
        return _decode(cls, memoryview(data), 0)


@dataclass(frozen=True, slots=True)
class Kind:
    """How one value travels: as a varint (`pack` gives an int) or as bytes with their length before them."""

    wire: int
    pack: Callable[[Any], Any]
    unpack: Callable[[Any, int], Any]
    empty: object


def _signed(value: int, _depth: int) -> int:
    return value - (1 << 64) if value >> 63 else value


# A name from a file system may be no UTF-8, and Go sends its bytes as they are.
TEXT = Kind(
    _BYTES,
    lambda value: value.encode("utf-8", "surrogateescape"),
    lambda raw, _depth: str(raw, "utf-8", "surrogateescape"),
    "",
)
RAW = Kind(_BYTES, lambda value: value, lambda raw, _depth: bytes(raw), b"")
INT = Kind(_VARINT, lambda value: value & (1 << 64) - 1, _signed, 0)
BOOL = Kind(_VARINT, int, lambda value, _depth: bool(value), False)


def _nested(kind: type[Message]) -> Kind:
    return Kind(_BYTES, lambda value: value.encode(), lambda raw, depth: _decode(kind, raw, depth + 1), None)


@dataclass(slots=True)
class Field:
    number: int
    kind: Kind
    many: bool = False
    keys: Kind | None = None  # of a map
    name: str = ""

    def write(self, out: bytearray, value: Any) -> None:
        if self.keys is not None:
            for key, item in value.items():
                entry = bytearray()
                _put(entry, 1, self.keys, key)
                _put(entry, 2, self.kind, item)
                _put(out, self.number, RAW, entry)
        elif self.many:
            for item in value:
                _put(out, self.number, self.kind, item)
        elif value != self.kind.empty:
            _put(out, self.number, self.kind, value)

    def read(self, message: Any, wire: int, raw: Any, depth: int) -> None:
        if self.keys is not None and wire == _BYTES:
            key, value = self._entry(raw, depth)
            getattr(message, self.name)[key] = value
        elif self.many and wire == _BYTES and self.kind.wire == _VARINT:
            getattr(message, self.name).extend(self.kind.unpack(item, depth) for item in _packed(raw))
        elif wire != self.kind.wire:
            raise InvalidArgument(
                "malformed message", detail=f"field {self.number} ({self.name}) has wire type {wire}"
            )
        elif self.many:
            getattr(message, self.name).append(self.kind.unpack(raw, depth))
        else:
            setattr(message, self.name, self.kind.unpack(raw, depth))

    def _entry(self, raw: memoryview, depth: int) -> tuple[Any, Any]:
        assert self.keys is not None  # only maps have entries
        key, value = self.keys.empty, self.kind.empty
        if value is None:
            value = self.kind.unpack(memoryview(b""), depth)
        for number, wire, item in _records(raw):
            if number == 1 and wire == self.keys.wire:
                key = self.keys.unpack(item, depth)
            elif number == 2 and wire == self.kind.wire:
                value = self.kind.unpack(item, depth)
        return key, value


# What a class body says of its fields


def text(number: int) -> str:
    return dataclasses.field(default="", metadata={"wire": Field(number, TEXT)})


def raw(number: int) -> bytes:
    return dataclasses.field(default=b"", metadata={"wire": Field(number, RAW)})


def integer(number: int) -> int:
    return dataclasses.field(default=0, metadata={"wire": Field(number, INT)})


def boolean(number: int) -> bool:
    return dataclasses.field(default=False, metadata={"wire": Field(number, BOOL)})


def message(number: int, kind: type[T]) -> T | None:
    field = Field(number, _nested(cast(type[Message], kind)))
    return cast(Any, dataclasses.field(default=None, metadata={"wire": field}))


def texts(number: int) -> list[str]:
    return dataclasses.field(default_factory=list[str], metadata={"wire": Field(number, TEXT, many=True)})


def raws(number: int) -> list[bytes]:
    return dataclasses.field(default_factory=list[bytes], metadata={"wire": Field(number, RAW, many=True)})


def messages(number: int, kind: type[T]) -> list[T]:
    field = Field(number, _nested(cast(type[Message], kind)), many=True)
    return cast(Any, dataclasses.field(default_factory=list[Any], metadata={"wire": field}))


def text_map(number: int) -> dict[str, str]:
    field = Field(number, TEXT, keys=TEXT)
    return dataclasses.field(default_factory=dict[str, str], metadata={"wire": field})


def raw_map(number: int) -> dict[str, bytes]:
    field = Field(number, RAW, keys=TEXT)
    return dataclasses.field(default_factory=dict[str, bytes], metadata={"wire": field})


def message_map(number: int, kind: type[T]) -> dict[str, T]:
    field = Field(number, _nested(cast(type[Message], kind)), keys=TEXT)
    return cast(Any, dataclasses.field(default_factory=dict[str, Any], metadata={"wire": field}))


@dataclass(slots=True)
class Timestamp(Message):
    """google.protobuf.Timestamp"""

    seconds: int = integer(1)
    nanos: int = integer(2)

    @classmethod
    def of(cls, nanoseconds: int) -> "Timestamp":
        """From nanoseconds since 1970, as time.time_ns() gives them."""
        return cls(*divmod(nanoseconds, 1_000_000_000))

    @classmethod
    def now(cls) -> "Timestamp":
        return cls.of(time.time_ns())


# The encoding itself


def put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _put(out: bytearray, number: int, kind: Kind, value: Any) -> None:
    put_varint(out, number << 3 | kind.wire)
    packed = kind.pack(value)
    if kind.wire == _VARINT:
        put_varint(out, packed)
    else:
        put_varint(out, len(packed))
        out += packed


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]  # IndexError: cut off
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, place
        shift += 7
        if shift > 63:
            raise InvalidArgument("malformed message", detail="a number of more than 64 bits")


def _records(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Field number, wire type and value (an int or the bytes) of everything in a message."""
    place, end = 0, len(data)
    try:
        while place < end:
            tag, place = _varint(data, place)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, place = _varint(data, place)
                yield number, wire, value
                continue
            if wire == _BYTES:
                length, place = _varint(data, place)
            elif wire in (_FIXED64, _FIXED32):
                length = 8 if wire == _FIXED64 else 4
            else:
                raise InvalidArgument("malformed message", detail=f"unknown wire type {wire}")
            if place + length > end:
                raise IndexError
            yield number, wire, data[place : place + length]
            place += length
    except IndexError as cause:
        raise InvalidArgument("malformed message", detail="it is cut off") from cause


def _packed(data: memoryview) -> Iterator[int]:
    place = 0
    try:
        while place < len(data):
            value, place = _varint(data, place)
            yield value
    except IndexError as cause:
        raise InvalidArgument("malformed message", detail="it is cut off") from cause


@cache
def _layout(kind: type[Message]) -> dict[int, Field]:
    found: dict[int, Field] = {}
    for field in dataclasses.fields(cast(Any, kind)):
        wire: Field = field.metadata["wire"]
        wire.name = field.name
        found[wire.number] = wire
    return found


M = TypeVar("M", bound=Message)


def _decode(kind: type[M], data: memoryview, depth: int) -> M:
    if depth > MAX_DEPTH:
        raise InvalidArgument("malformed message", detail=f"more than {MAX_DEPTH} messages within each other")
    decoded = kind()
    layout = _layout(kind)
    for number, wire, value in _records(data):
        field = layout.get(number)
        if field is not None:
            field.read(decoded, wire, value, depth)
    return decoded
