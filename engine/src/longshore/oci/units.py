"""How sizes, spans of time and ages are written and read. Pure; the one place that knows.

Spelled as Docker's clients and Go's standard library spell them: `512m`, `1h30m`, `4.26MB`, "About a minute".
"""

import re

from longshore.errors import InvalidArgument

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_SPAN = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h|d)")
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_LARGEST = 2**63 - 1  # Go's durations and sizes are int64
_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def parse_size(text: str) -> int:
    """ "512m" or "1.5GiB" in bytes; units are powers of 1024 and may be left out. Raises InvalidArgument."""
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * 1024 ** " kmgtp".index(found[2].lower() or " ")) if found else -1
    if not 0 <= size <= _LARGEST:
        raise InvalidArgument(f"invalid size {text!r}", hint="write a number and one of b, k, m, g, t")
    return size


def parse_duration(text: str, *, days: bool = False) -> int:
    """Go's notation, "1m30s" or "250ms" or "0", in nanoseconds; `days` allows "2d" too.

    Raises InvalidArgument, also for a negative one.
    """
    parts = _SPAN.findall(text)
    whole = "".join(number + unit for number, unit in parts) == text.removeprefix("+") and bool(parts)
    if text == "0":
        return 0
    if not whole or (not days and any(unit == "d" for _, unit in parts)):
        raise InvalidArgument(f"invalid duration {text!r}", hint="write it like 30s or 1m30s")
    total = sum(round(float(number) * _NANOSECONDS[unit]) for number, unit in parts)
    if total > _LARGEST:
        raise InvalidArgument(f"invalid duration {text!r}", detail="longer than 292 years")
    return total


def go_duration(nanoseconds: int) -> str:
    """As Go prints a span of time: "0s", "250ms", "1m30s", "1h0m0s"."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 10**9:
        unit = next(unit for unit in ("ms", "µs", "ns") if nanoseconds >= _NANOSECONDS[unit])
        return f"{_fraction(nanoseconds, _NANOSECONDS[unit])}{unit}"
    minutes, rest = divmod(nanoseconds, _NANOSECONDS["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_fraction(rest, 10**9)}s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _fraction(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if unit > 1 else ""
    return f"{whole}.{digits}" if digits else str(whole)


def human_size(size: float, *, digits: int = 4) -> str:
    """Units of 1000 as Docker prints them: "4.26MB" with three digits, "1.235GB" with four."""
    return _scaled(size, 1000.0, _DECIMAL, digits)


def binary_size(size: float, *, digits: int = 4) -> str:
    """Units of 1024: "1.5GiB"."""
    return _scaled(size, 1024.0, _BINARY, digits)


def _scaled(size: float, base: float, units: tuple[str, ...], digits: int) -> str:
    unit = 0
    while size >= base and unit < len(units) - 1:
        size, unit = size / base, unit + 1
    return f"{size:.{digits}g}{units[unit]}"


def human_duration(seconds: float) -> str:
    """The words of docker's Go library for a span of time: "About a minute", "3 hours"."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 2:
        return "1 second"
    if seconds < 60:
        return f"{int(seconds)} seconds"
    if seconds < 120:
        return "About a minute"
    if seconds < 3600:
        return f"{int(seconds / 60)} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, divisor, word in (
        (48, 1, "hours"),
        (336, 24, "days"),
        (1440, 168, "weeks"),
        (17520, 720, "months"),
    ):
        if hours < limit:
            return f"{hours // divisor} {word}"
    return f"{hours // 8760} years"
