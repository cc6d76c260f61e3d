"""Messages of moby.buildkit.v1.frontend.LLBBridge. Names and numbers are the protocol's."""

from dataclasses import dataclass

from longshore.api.buildkit.messages import (
    APICap,
    Definition,
    Platform,
    Range,
    RpcStatus,
    SourceInfo,
    SourceOp,
    WorkerRecord,
)
from longshore.api.buildkit.messages_session import Stat
from longshore.api.buildkit.wire import (
    Message,
    boolean,
    integer,
    message,
    message_map,
    messages,
    raw,
    raw_map,
    raws,
    text,
    text_map,
)


@dataclass(slots=True)
class Ref(Message):
    id: str = text(1)
    definition: Definition | None = message(2, Definition)


@dataclass(slots=True)
class RefMap(Message):
    refs: dict[str, Ref] = message_map(1, Ref)


@dataclass(slots=True)
class Result(Message):
    ref_deprecated: str = text(1)
    ref: Ref | None = message(3, Ref)
    refs: RefMap | None = message(4, RefMap)
    metadata: dict[str, bytes] = raw_map(10)


@dataclass(slots=True)
class ReturnRequest(Message):
    result: Result | None = message(1, Result)
    error: RpcStatus | None = message(2, RpcStatus)


@dataclass(slots=True)
class InputsResponse(Message):
    definitions: dict[str, Definition] = message_map(1, Definition)


@dataclass(slots=True)
class ResolveImageConfigRequest(Message):
    ref: str = text(1)
    platform: Platform | None = message(2, Platform)
    resolve_mode: str = text(3)
    log_name: str = text(4)


@dataclass(slots=True)
class ResolveImageConfigResponse(Message):
    digest: str = text(1)
    config: bytes = raw(2)
    ref: str = text(3)


@dataclass(slots=True)
class ResolveSourceMetaRequest(Message):
    source: SourceOp | None = message(1, SourceOp)
    platform: Platform | None = message(2, Platform)
    log_name: str = text(3)
    resolve_mode: str = text(4)


@dataclass(slots=True)
class ResolveSourceImageResponse(Message):
    digest: str = text(1)
    config: bytes = raw(2)


@dataclass(slots=True)
class ResolveSourceMetaResponse(Message):
    source: SourceOp | None = message(1, SourceOp)
    image: ResolveSourceImageResponse | None = message(2, ResolveSourceImageResponse)


@dataclass(slots=True)
class SolveRequest(Message):
    definition: Definition | None = message(1, Definition)
    frontend: str = text(2)
    frontend_opt: dict[str, str] = text_map(3)
    allow_result_return: bool = boolean(5)
    allow_result_array_ref: bool = boolean(6)
    frontend_inputs: dict[str, Definition] = message_map(13, Definition)
    evaluate: bool = boolean(14)


@dataclass(slots=True)
class SolveResponse(Message):
    ref: str = text(1)
    result: Result | None = message(3, Result)


@dataclass(slots=True)
class FileRange(Message):
    offset: int = integer(1)
    length: int = integer(2)


@dataclass(slots=True)
class ReadFileRequest(Message):
    ref: str = text(1)
    path: str = text(2)
    range: FileRange | None = message(3, FileRange)


@dataclass(slots=True)
class ReadFileResponse(Message):
    data: bytes = raw(1)


@dataclass(slots=True)
class ReadDirRequest(Message):
    ref: str = text(1)
    path: str = text(2)
    pattern: str = text(3)


@dataclass(slots=True)
class ReadDirResponse(Message):
    entries: list[Stat] = messages(1, Stat)


@dataclass(slots=True)
class StatFileRequest(Message):
    ref: str = text(1)
    path: str = text(2)


@dataclass(slots=True)
class StatFileResponse(Message):
    stat: Stat | None = message(1, Stat)


@dataclass(slots=True)
class EvaluateRequest(Message):
    ref: str = text(1)


@dataclass(slots=True)
class PongResponse(Message):
    frontend_caps: list[APICap] = messages(1, APICap)
    llb_caps: list[APICap] = messages(2, APICap)
    workers: list[WorkerRecord] = messages(3, WorkerRecord)


@dataclass(slots=True)
class WarnRequest(Message):
    digest: str = text(1)
    level: int = integer(2)
    short: bytes = raw(3)
    detail: list[bytes] = raws(4)
    url: str = text(5)
    info: SourceInfo | None = message(6, SourceInfo)
    ranges: list[Range] = messages(7, Range)
