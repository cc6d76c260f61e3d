"""The one table that turns errors into HTTP statuses, and the words of errors on the wire."""

import errno

import msgspec

from longshore import errors
from longshore.api.http import Reply

STATUSES: dict[type[errors.EngineError], int] = {
    errors.InvalidArgument: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.NotModified: 304,
    errors.Conflict: 409,
    errors.Unavailable: 503,
    errors.Unsupported: 501,
    errors.OutOfSpace: 500,  # the API documents no 507
    errors.StartFailed: 500,
    errors.Internal: 500,
}

# A program that is not there or cannot be executed is the caller's mistake, as in Docker.
_CALLERS_ERRNO = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EISDIR, errno.ENOTDIR}


def status_of(error: errors.EngineError) -> int:
    """The documented status; a subclass that is not in the table takes its nearest parent's."""
    if isinstance(error, errors.StartFailed) and error.errno in _CALLERS_ERRNO:
        return 400
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def error_reply(error: errors.EngineError) -> Reply:
    status = status_of(error)
    return Reply(304) if status == 304 else Reply(status, {"message": str(error)})


def error_line(message: str) -> bytes:
    """How a JSON stream that has begun tells of a failure: the status is already sent."""
    return msgspec.json.encode({"errorDetail": {"message": message}, "error": message}) + b"\r\n"
