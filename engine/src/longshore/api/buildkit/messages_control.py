"""Messages of moby.buildkit.v1.Control. Names and numbers are the protocol's."""

from dataclasses import dataclass

from longshore.api.buildkit.messages import (
    BuildkitVersion,
    Definition,
    Range,
    RpcStatus,
    SourceInfo,
    WorkerRecord,
)
from longshore.api.buildkit.wire import (
    Message,
    Timestamp,
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
class DiskUsageRequest(Message):
    filter: list[str] = texts(1)


@dataclass(slots=True)
class PruneRequest(Message):
    filter: list[str] = texts(1)
    all: bool = boolean(2)
    keep_duration: int = integer(3)  # nanoseconds
    reserved_space: int = integer(4)  # bytes; keepBytes before BuildKit 0.17
    max_used_space: int = integer(5)
    min_free_space: int = integer(6)


@dataclass(slots=True)
class UsageRecord(Message):
    id: str = text(1)
    mutable: bool = boolean(2)
    in_use: bool = boolean(3)
    size: int = integer(4)
    parent: str = text(5)
    created_at: Timestamp | None = message(6, Timestamp)
    last_used_at: Timestamp | None = message(7, Timestamp)
    usage_count: int = integer(8)
    description: str = text(9)
    record_type: str = text(10)
    shared: bool = boolean(11)
    parents: list[str] = texts(12)


@dataclass(slots=True)
class DiskUsageResponse(Message):
    record: list[UsageRecord] = messages(1, UsageRecord)


@dataclass(slots=True)
class CacheOptionsEntry(Message):
    type: str = text(1)
    attrs: dict[str, str] = text_map(2)


@dataclass(slots=True)
class CacheOptions(Message):
    export_ref: str = text(1)
    import_refs: list[str] = texts(2)
    exports: list[CacheOptionsEntry] = messages(4, CacheOptionsEntry)
    imports: list[CacheOptionsEntry] = messages(5, CacheOptionsEntry)


@dataclass(slots=True)
class Exporter(Message):
    type: str = text(1)
    attrs: dict[str, str] = text_map(2)


@dataclass(slots=True)
class SolveRequest(Message):
    ref: str = text(1)
    definition: Definition | None = message(2, Definition)
    exporter: str = text(3)  # of clients before BuildKit 0.13, which know one exporter
    exporter_attrs: dict[str, str] = text_map(4)
    session: str = text(5)
    frontend: str = text(6)
    frontend_attrs: dict[str, str] = text_map(7)
    cache: CacheOptions | None = message(8, CacheOptions)
    entitlements: list[str] = texts(9)
    frontend_inputs: dict[str, Definition] = message_map(10, Definition)
    internal: bool = boolean(11)
    source_policy: bytes = raw(12)
    exporters: list[Exporter] = messages(13, Exporter)


@dataclass(slots=True)
class SolveResponse(Message):
    exporter_response: dict[str, str] = text_map(1)


@dataclass(slots=True)
class StatusRequest(Message):
    ref: str = text(1)


@dataclass(slots=True)
class Vertex(Message):
    digest: str = text(1)
    inputs: list[str] = texts(2)
    name: str = text(3)
    cached: bool = boolean(4)
    started: Timestamp | None = message(5, Timestamp)
    completed: Timestamp | None = message(6, Timestamp)
    error: str = text(7)


@dataclass(slots=True)
class VertexStatus(Message):
    id: str = text(1)
    vertex: str = text(2)
    name: str = text(3)
    current: int = integer(4)
    total: int = integer(5)
    timestamp: Timestamp | None = message(6, Timestamp)
    started: Timestamp | None = message(7, Timestamp)
    completed: Timestamp | None = message(8, Timestamp)


@dataclass(slots=True)
class VertexLog(Message):
    vertex: str = text(1)
    timestamp: Timestamp | None = message(2, Timestamp)
    stream: int = integer(3)
    msg: bytes = raw(4)


@dataclass(slots=True)
class VertexWarning(Message):
    vertex: str = text(1)
    level: int = integer(2)
    short: bytes = raw(3)
    detail: list[bytes] = raws(4)
    url: str = text(5)
    info: SourceInfo | None = message(6, SourceInfo)
    ranges: list[Range] = messages(7, Range)


@dataclass(slots=True)
class StatusResponse(Message):
    vertices: list[Vertex] = messages(1, Vertex)
    statuses: list[VertexStatus] = messages(2, VertexStatus)
    logs: list[VertexLog] = messages(3, VertexLog)
    warnings: list[VertexWarning] = messages(4, VertexWarning)


@dataclass(slots=True)
class ListWorkersResponse(Message):
    record: list[WorkerRecord] = messages(1, WorkerRecord)


@dataclass(slots=True)
class InfoResponse(Message):
    version: BuildkitVersion | None = message(1, BuildkitVersion)


# The history of builds

STARTED, COMPLETE, DELETED = 0, 1, 2


@dataclass(slots=True)
class BuildHistoryRequest(Message):
    active_only: bool = boolean(1)
    ref: str = text(2)
    early_exit: bool = boolean(3)
    filter: list[str] = texts(4)
    limit: int = integer(5)


@dataclass(slots=True)
class BuildHistoryRecord(Message):
    ref: str = text(1)
    frontend: str = text(2)
    frontend_attrs: dict[str, str] = text_map(3)
    exporters: list[Exporter] = messages(4, Exporter)
    error: RpcStatus | None = message(5, RpcStatus)
    created_at: Timestamp | None = message(6, Timestamp)
    completed_at: Timestamp | None = message(7, Timestamp)
    exporter_response: dict[str, str] = text_map(9)
    generation: int = integer(12)
    pinned: bool = boolean(14)
    num_cached_steps: int = integer(15)
    num_total_steps: int = integer(16)
    num_completed_steps: int = integer(17)
    num_warnings: int = integer(19)


@dataclass(slots=True)
class BuildHistoryEvent(Message):
    type: int = integer(1)
    record: BuildHistoryRecord | None = message(2, BuildHistoryRecord)


@dataclass(slots=True)
class UpdateBuildHistoryRequest(Message):
    ref: str = text(1)
    pinned: bool = boolean(2)
    delete: bool = boolean(3)
    finalize: bool = boolean(4)
