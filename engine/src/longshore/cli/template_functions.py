"""The functions of `--format` templates: Go's own and docker's, on JSON values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

_VERB = re.compile(r"%([-+# 0]*)(\d+|\*)?(?:\.(\d+))?([a-zA-Z%])")


def go_text(value: Any) -> str:
    """As Go prints values in templates."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + " ".join(_inner(item) for item in cast("Sequence[Any]", value)) + "]"
    if isinstance(value, Mapping):
        pairs = sorted(cast("Mapping[str, Any]", value).items())
        return "map[" + " ".join(f"{key}:{_inner(item)}" for key, item in pairs) + "]"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e21 else repr(value)
    return str(value)


def _inner(value: Any) -> str:
    return "<nil>" if value is None else go_text(value)


def truth(value: Any) -> bool:
    """Empty is false: false, 0, nil, and anything of length zero."""
    return bool(value)


def to_json(value: Any) -> str:
    """Compact, with the letters as they are (docker turns off Go's escaping of <, > and &)."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = cast("Mapping[str, Any]", value).get(str(key), "")
        elif value is None:
            raise ValueError("index of untyped nil")
        else:
            if not isinstance(key, int) or not 0 <= key < len(value):
                raise ValueError(f"index out of range: {key}")
            value = value[key] if not isinstance(value, str) else ord(value[key])
    return value


def _slice(value: Any, *bounds: int) -> Any:
    low, high = (*bounds, None, None)[:2]
    if any(not 0 <= bound <= len(value) for bound in bounds):
        raise ValueError(f"index out of range: {bounds}")
    return value[low:high]


def _and(*values: Any) -> Any:
    return next((value for value in values if not truth(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if truth(value)), values[-1])


def _not(value: Any) -> bool:
    return not truth(value)


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    return any(type(first) is type(other) and first == other for other in others)


def _unequal(first: Any, other: Any) -> bool:
    return not _equal(first, other)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def function(first: Any, second: Any) -> bool:
        if isinstance(first, str) != isinstance(second, str):
            raise ValueError("incompatible types for comparison")
        return compare(first, second)

    return function


def _spaced(values: Sequence[Any]) -> str:
    """Go's Print puts a blank between two values when neither is a string."""
    out = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out += " "
        out += _inner(value)
    return out


def _print(*values: Any) -> str:
    return _spaced(values)


def _println(*values: Any) -> str:
    return " ".join(_inner(value) for value in values) + "\n"


def _printf(pattern: str, *values: Any) -> str:
    left = list(values)

    def fill(found: re.Match[str]) -> str:
        flags, width, precision, verb = found[1], found[2] or "", found[3], found[4]
        if verb == "%":
            return "%"
        if width == "*":
            width = str(left.pop(0))
        if not left:
            return f"%!{verb}(MISSING)"
        return _formatted(left.pop(0), verb, flags, width, precision)

    return _VERB.sub(fill, pattern)


def _formatted(value: Any, verb: str, flags: str, width: str, precision: str | None) -> str:
    places = "" if precision is None else f".{precision}"
    if verb in "dxXob" and isinstance(value, int):
        return (
            f"%{flags}{width}{places}{verb}" % value if verb != "b" else f"{value:b}".rjust(int(width or 0))
        )
    if verb in "eEfFgG" and isinstance(value, int | float):
        return f"%{flags}{width}{places}{verb}" % value
    if verb in "xX" and isinstance(value, str):
        text = value.encode().hex()
    elif verb == "q":
        text = json.dumps(go_text(value), ensure_ascii=False)
    elif verb == "t" or verb in "sv":
        text = _inner(value)
    elif verb == "c" and isinstance(value, int):
        text = chr(value)
    else:
        text = f"%!{verb}({type(value).__name__}={_inner(value)})"
    if precision is not None and verb in "sq":
        text = text[: int(precision)]
    return text.ljust(int(width or 0)) if "-" in flags else text.rjust(int(width or 0))


def _join(values: Sequence[Any] | None, separator: str) -> str:
    return separator.join(map(go_text, values or ()))


def _split(value: str, separator: str) -> list[str]:
    return value.split(separator) if separator else list(value)


def _title(value: str) -> str:
    return re.sub(r"(^|\s)(\w)", lambda found: found[1] + found[2].upper(), value)


def _pad(value: str, before: int, after: int) -> str:
    return " " * before + value + " " * after if value else value


def _truncate(value: str, length: int) -> str:
    return value[:length]


def _upper(value: str) -> str:
    return value.upper()


def _lower(value: str) -> str:
    return value.lower()


def _html(*values: Any) -> str:
    from html import escape

    return escape(_spaced(values)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _urlquery(*values: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_spaced(values))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "or": _or,
    "not": _not,
    "eq": _equal,
    "ne": _unequal,
    "lt": _ordered(lambda a, b: a < b),
    "le": _ordered(lambda a, b: a <= b),
    "gt": _ordered(lambda a, b: a > b),
    "ge": _ordered(lambda a, b: a >= b),
    "len": len,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": _println,
    "printf": _printf,
    "html": _html,
    "urlquery": _urlquery,
    "json": to_json,
    "join": _join,
    "split": _split,
    "title": _title,
    "lower": _lower,
    "upper": _upper,
    "pad": _pad,
    "truncate": _truncate,
}


def _same(value: Any, *_: Any) -> Any:
    return value


# In the head of a table these leave the column's name alone, as docker's do.
HEADING_FUNCTIONS: dict[str, Callable[..., Any]] = dict.fromkeys(
    ("json", "title", "lower", "upper", "truncate", "join", "split"), _same
)
