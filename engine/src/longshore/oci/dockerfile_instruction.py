"""One instruction of a Dockerfile: its keyword, flags and words. Pure: no expansion, no files.

Follows the Dockerfile reference (https://docs.docker.com/reference/dockerfile/). Errors carry the line and Docker's
opening words, because tools search for them.
"""

import json
import re
from dataclasses import dataclass
from typing import cast

from longshore.errors import InvalidArgument

# Keyword -> the flags it knows. A flag in BOOLEAN may stand without a value.
FLAGS: dict[str, frozenset[str]] = {
    "ADD": frozenset({"chown", "chmod", "checksum", "link"}),
    "ARG": frozenset(),
    "CMD": frozenset(),
    "COPY": frozenset({"from", "chown", "chmod", "link"}),
    "ENTRYPOINT": frozenset(),
    "ENV": frozenset(),
    "EXPOSE": frozenset(),
    "FROM": frozenset({"platform"}),
    "HEALTHCHECK": frozenset({"interval", "timeout", "start-period", "start-interval", "retries"}),
    "LABEL": frozenset(),
    "MAINTAINER": frozenset(),
    "ONBUILD": frozenset(),
    "RUN": frozenset({"network"}),
    "SHELL": frozenset(),
    "STOPSIGNAL": frozenset(),
    "USER": frozenset(),
    "VOLUME": frozenset(),
    "WORKDIR": frozenset(),
}
BOOLEAN = frozenset({"link"})
BUILDKIT_FLAGS: dict[str, frozenset[str]] = {
    "ADD": frozenset({"exclude", "keep-git-dir", "unpack"}),
    "COPY": frozenset({"exclude", "parents"}),
    "RUN": frozenset({"device", "mount", "security"}),
}
# In these a JSON array is the exec form; elsewhere it is ordinary text.
JSON_FORMS = frozenset({"ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME"})

_FLAG = re.compile(r"--([a-z-]+)(?:=(\S*))?(?:\s+|$)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction as written: continuation lines joined, flags taken off, nothing expanded."""

    line: int
    keyword: str  # upper case
    text: str  # the arguments after the flags
    flags: dict[str, str]
    words: tuple[str, ...] | None = None  # the JSON form, None for the plain ("shell") form

    @property
    def original(self) -> str:
        """The instruction in one line, as progress and history show it."""
        flags = "".join(f"--{name}={value} " for name, value in self.flags.items())
        return f"{self.keyword} {flags}{self.text}".rstrip()

    def error(self, problem: str) -> InvalidArgument:
        return InvalidArgument(f"dockerfile parse error line {self.line}: {problem}")


def parse_instruction(line: int, logical: str) -> Instruction:
    """One logical line; ONBUILD triggers come through here a second time."""
    keyword, _, rest = logical.strip().partition(" ") if " " in logical.strip() else (logical.strip(), "", "")
    if "\t" in keyword:
        keyword, _, tail = keyword.partition("\t")
        rest = f"{tail} {rest}".strip()
    keyword, rest = keyword.upper(), rest.strip()
    found = Instruction(line, keyword, rest, {})
    if keyword not in FLAGS:
        raise found.error(f"unknown instruction: {keyword}")
    flags, rest = _take_flags(found)
    if not rest and keyword not in ("CMD", "ENTRYPOINT"):
        raise found.error(f"{keyword} requires at least one argument")
    words = _json_form(rest) if keyword in JSON_FORMS else None
    if keyword == "SHELL" and not words:
        raise found.error('SHELL requires the arguments to be in JSON form, like ["/bin/bash", "-c"]')
    return Instruction(line, keyword, rest, flags, words)


def _take_flags(instruction: Instruction) -> tuple[dict[str, str], str]:
    flags: dict[str, str] = {}
    rest = instruction.text
    known = FLAGS[instruction.keyword]
    while known and rest.startswith("--"):
        match = _FLAG.match(rest)
        if match is None:
            break
        name, value = match[1], match[2]
        if name in BUILDKIT_FLAGS.get(instruction.keyword, ()):
            raise instruction.error(f"--{name} needs BuildKit, which is not served yet")
        if name not in known:
            raise instruction.error(f"unknown flag: --{name}")
        if value is None and name not in BOOLEAN:
            raise instruction.error(f"missing a value on flag: --{name}")
        if name in flags:
            raise instruction.error(f"duplicate flag specified: --{name}")
        flags[name] = "true" if value is None else value
        rest = rest[match.end() :]
    return flags, rest


def _json_form(text: str) -> tuple[str, ...] | None:
    """Docker takes text that is no valid array of strings for the shell form, without a word."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in cast(list[object], value)):
        return None
    return tuple(cast(list[str], value))
