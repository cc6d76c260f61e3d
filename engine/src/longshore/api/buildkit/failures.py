"""Failed builds in BuildKit's words, with the place in the Dockerfile that clients print. Pure."""

import base64
import re

import msgspec

from longshore.api.buildkit.grpc import UNKNOWN, CallFailed
from longshore.api.buildkit.messages import Any, SourceInfo
from longshore.build.running import BuildFailed
from longshore.errors import EngineError

SOURCE = "github.com/moby/buildkit/errdefs.Source+json"
SUBREQUEST = "github.com/moby/buildkit/errdefs.Subrequest+json"
_LINE = re.compile(r"\bline (\d+)")


def explained(error: EngineError, source: SourceInfo | None, line: int = 0) -> CallFailed:
    """The error as the client is to see it. `line` is that of the failed step, 0 when none began."""
    if isinstance(error, CallFailed):
        return error
    if not line:
        # A Dockerfile that cannot be read has no steps; the parser's text names the line.
        found = _LINE.search(str(error))
        line = int(found[1]) if found else 0
    details = (_source(source, line),) if source is not None and line else ()
    return CallFailed(words(error), code=UNKNOWN, details=details)


def words(error: EngineError) -> str:
    """A command's failure as BuildKit says it; all else as it is."""
    if isinstance(error, BuildFailed):
        return f'process "{error.command}" did not complete successfully: exit code: {error.code}'
    return str(error)


def unknown_request(name: str) -> CallFailed:
    """A subrequest of the frontend that there is not; buildx goes by the detail's type."""
    detail = Any(SUBREQUEST, msgspec.json.encode({"name": name}))
    return CallFailed(f"unsupported request {name}", code=12, details=(detail,))


def _source(source: SourceInfo, line: int) -> Any:
    place = {"line": line}
    value = {
        "info": {
            "filename": source.filename,
            "data": base64.b64encode(source.data).decode(),
            "language": source.language,
        },
        "ranges": [{"start": place, "end": place}],
    }
    return Any(SOURCE, msgspec.json.encode(value))
