"""Messages that several of BuildKit's services share. Names and numbers are the protocol's."""

from dataclasses import dataclass

from longshore.api.buildkit.wire import (
    Message,
    boolean,
    integer,
    message,
    message_map,
    messages,
    raw,
    raws,
    text,
    text_map,
    texts,
)


@dataclass(slots=True)
class Empty(Message):
    pass


@dataclass(slots=True)
class Any(Message):
    type_url: str = text(1)
    value: bytes = raw(2)


@dataclass(slots=True)
class RpcStatus(Message):
    """google.rpc.Status"""

    code: int = integer(1)
    message: str = text(2)
    details: list[Any] = messages(3, Any)


@dataclass(slots=True)
class BytesMessage(Message):
    data: bytes = raw(1)


@dataclass(slots=True)
class HealthResponse(Message):
    status: int = integer(1)


@dataclass(slots=True)
class Platform(Message):
    architecture: str = text(1)
    os: str = text(2)
    variant: str = text(3)


# pb: the graph of a build ("LLB"), as far as a client sees or sends it


@dataclass(slots=True)
class Position(Message):
    line: int = integer(1)
    character: int = integer(2)


@dataclass(slots=True)
class Range(Message):
    start: Position | None = message(1, Position)
    end: Position | None = message(2, Position)


@dataclass(slots=True)
class Input(Message):
    digest: str = text(1)
    index: int = integer(2)


@dataclass(slots=True)
class SourceOp(Message):
    identifier: str = text(1)
    attrs: dict[str, str] = text_map(2)


@dataclass(slots=True)
class Op(Message):
    inputs: list[Input] = messages(1, Input)
    source: SourceOp | None = message(3, SourceOp)
    platform: Platform | None = message(10, Platform)


@dataclass(slots=True)
class OpMetadata(Message):
    description: dict[str, str] = text_map(2)


@dataclass(slots=True)
class Definition(Message):
    ops: list[bytes] = raws(1)
    metadata: dict[str, OpMetadata] = message_map(2, OpMetadata)


@dataclass(slots=True)
class SourceInfo(Message):
    filename: str = text(1)
    data: bytes = raw(2)
    language: str = text(4)


@dataclass(slots=True)
class APICap(Message):
    id: str = text(1)
    enabled: bool = boolean(2)


@dataclass(slots=True)
class BuildkitVersion(Message):
    package: str = text(1)
    version: str = text(2)
    revision: str = text(3)


@dataclass(slots=True)
class GCPolicy(Message):
    all: bool = boolean(1)
    keep_duration: int = integer(2)
    reserved_space: int = integer(3)
    filters: list[str] = texts(4)


@dataclass(slots=True)
class WorkerRecord(Message):
    id: str = text(1)
    labels: dict[str, str] = text_map(2)
    platforms: list[Platform] = messages(3, Platform)
    gc_policy: list[GCPolicy] = messages(4, GCPolicy)
    version: BuildkitVersion | None = message(5, BuildkitVersion)
