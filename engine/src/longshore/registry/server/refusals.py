"""The codes of the specification's error replies (spec.md, section Error Codes) and what status each has."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

from longshore.errors import (
    Conflict,
    EngineError,
    Forbidden,
    InvalidArgument,
    NotFound,
    OutOfSpace,
    Unauthorized,
    Unavailable,
    Unsupported,
)


class Code(Enum):
    """Name, HTTP status and text; the names are the specification's, UNKNOWN is distribution's for 5xx."""

    BLOB_UNKNOWN = (404, "blob unknown to registry")
    BLOB_UPLOAD_INVALID = (400, "blob upload invalid")
    BLOB_UPLOAD_UNKNOWN = (404, "blob upload unknown to registry")
    DIGEST_INVALID = (400, "provided digest did not match uploaded content")
    MANIFEST_BLOB_UNKNOWN = (404, "manifest references a manifest or blob unknown to registry")
    MANIFEST_INVALID = (400, "manifest invalid")
    MANIFEST_UNKNOWN = (404, "manifest unknown to registry")
    NAME_INVALID = (400, "invalid repository name")
    NAME_UNKNOWN = (404, "repository name not known to registry")
    SIZE_INVALID = (400, "provided length did not match content length")
    UNAUTHORIZED = (401, "authentication required")
    DENIED = (403, "requested access to the resource is denied")
    UNSUPPORTED = (405, "the operation is unsupported")
    TOOMANYREQUESTS = (429, "too many requests")
    UNKNOWN = (500, "unknown error")

    @property
    def status(self) -> int:
        return self.value[0]

    @property
    def text(self) -> str:
        return self.value[1]


class Refused(EngineError):
    """A request that is answered with one of the specification's codes.

    `detail` goes into the reply as it is, `status` replaces the code's own, `headers` are added to the reply.
    """

    def __init__(
        self,
        code: Code,
        why: str = "",
        *,
        detail: Any = None,
        status: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code.text, detail=why)
        self.code, self.why, self.more = code, why, detail
        self.status = status or code.status
        self.headers = dict(headers or {})


# Errors from below that no handler has turned into a code of its own.
_KINDS: tuple[tuple[type[EngineError], Code, int], ...] = (
    (OutOfSpace, Code.UNKNOWN, 507),
    (NotFound, Code.NAME_UNKNOWN, 404),
    (Unauthorized, Code.UNAUTHORIZED, 401),
    (Forbidden, Code.DENIED, 403),
    (Conflict, Code.BLOB_UPLOAD_INVALID, 409),
    (Unsupported, Code.UNSUPPORTED, 405),
    (InvalidArgument, Code.MANIFEST_INVALID, 400),
    (Unavailable, Code.UNKNOWN, 503),
)


def refusal_of(error: EngineError) -> Refused:
    """Any error of the engine as a reply."""
    if isinstance(error, Refused):
        return error
    for kind, code, status in _KINDS:
        if isinstance(error, kind):
            return Refused(code, str(error), status=status)
    return Refused(Code.UNKNOWN, str(error))


def error_body(error: Refused) -> bytes:
    """`{"errors": [{"code", "message", "detail"}]}`."""
    message = f"{error.code.text}: {error.why}" if error.why else error.code.text
    entry: dict[str, Any] = {"code": error.code.name, "message": message[:1000]}
    if error.more is not None:
        entry["detail"] = error.more
    return msgspec.json.encode({"errors": [entry]})
