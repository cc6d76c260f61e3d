"""Times as the API writes them."""

import re
import time
from datetime import UTC, datetime

from longshore.errors import InvalidArgument

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")


def now() -> str:
    """RFC 3339 with nanoseconds in UTC, as Go's time.RFC3339Nano for a moment without trailing zeros."""
    return rfc3339(time.time_ns())


def rfc3339(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def parse_rfc3339(text: str) -> int:
    """Unix nanoseconds of an RFC 3339 time; Go's zero time and "" are 0. Raises ValueError."""
    if not text or text.startswith("0001-"):
        return 0
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:?\d\d)?", text
    )
    if not match:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    zone = "+00:00" if (match[4] or "Z") in "Zz" else match[4]
    moment = datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}")
    return int(moment.timestamp()) * 1_000_000_000 + int((match[3] or "0").ljust(9, "0"))


def parse_moment(text: str, field: str) -> int:
    """Unix nanoseconds of what the API takes as since and until: seconds with a fraction, RFC 3339, or a
    duration back from now ("10m"). Empty or "0": 0. Raises InvalidArgument.
    """
    if not text or text == "0":
        return 0
    if match := re.fullmatch(r"(\d{1,11})(?:\.(\d{1,9}))?", text):
        return int(match[1]) * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))
    if (match := _DURATION.fullmatch(text)) and any(match.groups()):
        hours, minutes, seconds, millis = (float(part or 0) for part in match.groups())
        return time.time_ns() - int((hours * 3600 + minutes * 60 + seconds + millis / 1000) * 1e9)
    day = f"{text}T00:00:00Z" if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else text
    try:
        return parse_rfc3339(day)
    except ValueError as cause:
        raise InvalidArgument(f"invalid value of {field}", detail=str(cause)) from cause
