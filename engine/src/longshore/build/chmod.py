"""--chmod: octal or symbolic, as chmod(1) has it. Pure."""

import re
from collections.abc import Callable

from longshore.errors import InvalidArgument

Mode = Callable[[int, bool], int]
"""From the old permission bits and whether it is a directory to the new ones."""

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


def parse_mode(text: str) -> Mode:
    """`0755`, `u=rwX,go=rX`, `+x`. Raises InvalidArgument."""
    if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        octal = int(text, 8)
        return lambda _mode, _directory: octal
    clauses = [_CLAUSE.fullmatch(part) for part in text.split(",")]
    if not text or text.isdigit() or not all(clauses):
        raise InvalidArgument(
            f"invalid chmod parameter: {text[:100]!r}",
            detail="it should be octal and between 0 and 07777, or symbolic",
            hint="like 0644 or u=rwX,go=rX",
        )
    plan = [
        (match[1] or "a", _ACTION.findall(match[2])) for match in clauses if match is not None
    ]

    def change(mode: int, directory: bool) -> int:
        for who, actions in plan:
            for operator, what in actions:
                mode = _applied(mode, who, operator, what, directory)
        return mode

    return change


def _applied(mode: int, who: str, operator: str, what: str, directory: bool) -> int:
    whose = "ugo" if "a" in who else who
    wanted, mask = 0, 0
    for person in whose:
        shift = _SHIFTS[person]
        wanted |= _bits(mode, what, directory) << shift
        mask |= 7 << shift
    if "s" in what:
        wanted |= (0o4000 if "u" in whose else 0) | (0o2000 if "g" in whose else 0)
    if "t" in what:
        wanted |= 0o1000
    if operator == "+":
        return mode | wanted
    if operator == "-":
        return mode & ~wanted
    special = (0o4000 if "u" in whose else 0) | (0o2000 if "g" in whose else 0) | (0o1000 if "a" in who else 0)
    kept = special if directory else 0  # as chmod(1): a directory keeps its set-id bits unless they are named
    return mode & ~(mask | special) | mode & kept | wanted


def _bits(mode: int, what: str, directory: bool) -> int:
    if what in _SHIFTS:
        return mode >> _SHIFTS[what] & 7
    bits = sum(_BITS[letter] for letter in set(what) & _BITS.keys())
    return bits | (1 if "X" in what and (directory or mode & 0o111) else 0)
