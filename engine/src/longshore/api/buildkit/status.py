"""The builder's events as BuildKit's vertices, rows, logs and warnings. Pure."""

from longshore.api.buildkit.failures import words
from longshore.api.buildkit.messages import Position, Range, SourceInfo
from longshore.api.buildkit.messages_control import (
    StatusResponse,
    Vertex,
    VertexLog,
    VertexStatus,
    VertexWarning,
)
from longshore.api.buildkit.wire import Timestamp
from longshore.build.events import (
    Cached,
    Done,
    Event,
    Failed,
    Note,
    Output,
    Planned,
    Running,
    Started,
    Step,
    Transfer,
    Warned,
)
from longshore.errors import EngineError

MAX_LOG = 2 << 20  # of one step; BuildKit's BUILDKIT_STEP_LOG_MAX_SIZE


class Rendering:
    """One build's events in, status messages out; `counts` for the history."""

    def __init__(self) -> None:
        self.source: SourceInfo | None = None  # the Dockerfile, which warnings quote
        self.warnings = 0
        self.failed_line = 0  # of the Dockerfile, where a step with a line has failed
        self._vertices: dict[str, Vertex] = {}
        self._lines: dict[str, int] = {}
        self._error: EngineError | None = None  # what the build failed with
        self._rows: dict[tuple[str, str], VertexStatus] = {}
        self._logged: dict[str, int] = {}

    @property
    def counts(self) -> tuple[int, int, int]:
        """Vertices in all, completed, cached."""
        all = self._vertices.values()
        return len(all), sum(v.completed is not None for v in all), sum(v.cached for v in all)

    def running(self, name: str) -> str:
        """The id of a step of this name that has begun and not ended, "" when there is none."""
        for id, vertex in self._vertices.items():
            if vertex.name == name and vertex.started is not None and vertex.completed is None:
                return id
        return ""

    def take(self, event: Event) -> StatusResponse | None:
        """What to tell about an event, None for nothing."""
        match event:
            case Planned(steps=steps):
                return StatusResponse(vertices=[self._vertex(step) for step in steps])
            case Started(step=step, at=at):
                vertex = self._vertex(step)
                vertex.started = vertex.started or _time(at)
                return StatusResponse(vertices=[vertex])
            case Cached(step=ended, at=at):
                return self._ended(ended, at, cached=True)
            case Done(step=ended, at=at):
                return self._ended(ended, at)
            case Failed(step=ended, error=error, at=at):
                return self._ended(ended, at, error=self._failed(ended, error))
            case Output(step=ended, stream=stream, data=data, at=at):
                return self._log(ended, stream, data, at)
            case Transfer():
                return self._row(event)
            case Warned():
                return self._warning(event)
            case Note() | Running():
                return None

    def _failed(self, step: str, error: EngineError) -> str:
        """The words for a failed step; steps that waited for the one that failed first are cancelled only."""
        if self._error is error:
            return "context canceled"
        if self._error is None:
            self._error, self.failed_line = error, self._lines.get(step, 0)
        return words(error)

    def _vertex(self, step: Step) -> Vertex:
        vertex = self._vertices.get(step.id)
        if vertex is None:
            vertex = self._vertices[step.id] = Vertex(step.id, list(step.inputs), step.name)
            self._lines[step.id] = step.line
        return vertex

    def _ended(self, step: str, at: float, *, cached: bool = False, error: str = "") -> StatusResponse | None:
        vertex = self._vertices.get(step)
        if vertex is None or vertex.completed is not None:
            return None
        vertex.completed = _time(at)
        vertex.started = vertex.started or vertex.completed
        vertex.cached, vertex.error = cached, error
        return StatusResponse(vertices=[vertex])

    def _log(self, step: str, stream: int, data: bytes, at: float) -> StatusResponse | None:
        before = self._logged.get(step, 0)
        if before > MAX_LOG:
            return None
        self._logged[step] = before + len(data)
        if before + len(data) > MAX_LOG:
            data = data[: MAX_LOG - before] + b"\n[output clipped, log limit 2MiB reached]\n"
            self._logged[step] = MAX_LOG + 1
        return StatusResponse(logs=[VertexLog(step, _time(at), stream, data)])

    def _row(self, event: Transfer) -> StatusResponse | None:
        name = event.name
        current, total, done = event.current, event.total, event.done
        if event.message is not None:
            detail = event.message.get("progressDetail")
            if not name or not isinstance(detail, dict):
                return None
            current = int(detail.get("current") or 0)  # type: ignore[arg-type]
            total = int(detail.get("total") or 0)  # type: ignore[arg-type]
            done = event.action in ("Pull complete", "Already exists")
        row = self._rows.get((event.step, name))
        if row is None:
            row = VertexStatus(name, event.step, started=_time(event.at))
            self._rows[event.step, name] = row
        row.name, row.timestamp = event.action, _time(event.at)
        # A pull counts anew for each of its parts, a row only grows.
        row.current, row.total = max(row.current, current), max(row.total, total)
        if done and row.completed is None:
            row.completed = row.timestamp
            row.current = max(row.current, row.total)
        return StatusResponse(statuses=[row])

    def _warning(self, event: Warned) -> StatusResponse:
        self.warnings += 1
        vertex = event.step or next(iter(self._vertices), "")
        short = f"{event.rule}: {event.message}" if event.rule else event.message
        warning = VertexWarning(vertex, 1, short.encode(), url=event.url, info=self.source)
        if event.description:
            warning.detail = [event.description.encode()]
        if event.start:
            warning.ranges = [Range(Position(event.start), Position(event.end or event.start))]
        return StatusResponse(warnings=[warning])


def _time(seconds: float) -> Timestamp:
    return Timestamp.of(int(seconds * 1_000_000_000))
