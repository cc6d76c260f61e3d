"""Read a Dockerfile into instructions. Pure: no expansion, no files.

Follows the Dockerfile reference (https://docs.docker.com/reference/dockerfile/): parser directives, comments,
continuation lines, JSON ("exec") forms and flags. Errors carry the line and Docker's opening words, because
tools search for them.
"""

import json
import re
from collections.abc import Iterator
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

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$")
_HERE_DOCUMENT = re.compile(r"""\s\d*<<-?(["']?)([A-Za-z_]\w*)\1""")
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


@dataclass(frozen=True, slots=True)
class Dockerfile:
    instructions: tuple[Instruction, ...]
    escape: str  # "\\" or "`", also the escape character of expansions


def parse_dockerfile(text: str) -> Dockerfile:
    """Raises InvalidArgument ("dockerfile parse error line N: …") for what is no Dockerfile."""
    text = text.removeprefix("\ufeff")
    escape = _escape_directive(text)
    lines = text.splitlines()
    instructions: list[Instruction] = []
    for line, logical in _logical_lines(lines, escape):
        instructions.append(parse_instruction(line, logical))
        _refuse_here_document(instructions[-1], lines)
    if not instructions:
        raise InvalidArgument("the Dockerfile cannot be empty", hint="begin it with FROM")
    return Dockerfile(tuple(instructions), escape)


def _refuse_here_document(instruction: Instruction, lines: list[str]) -> None:
    """Its lines would be taken for instructions. Without the line that ends it, it is the shell's business."""
    if instruction.keyword not in ("ADD", "COPY", "ONBUILD", "RUN"):
        return
    following = {line.strip() for line in lines[instruction.line :]}
    for found in _HERE_DOCUMENT.finditer(f" {instruction.text}"):
        if found[2] in following:
            raise instruction.error("here-documents need BuildKit, which is not served yet")


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


def _escape_directive(text: str) -> str:
    """Directives stand at the very top, one comment line each; the first other line ends them."""
    for number, line in enumerate(text.splitlines(), start=1):
        match = _DIRECTIVE.match(line.strip())
        if not match:
            break
        if match[1].lower() == "escape":
            if match[2] not in ("\\", "`"):
                raise InvalidArgument(
                    f"dockerfile parse error line {number}: invalid ESCAPE {match[2]!r}",
                    hint="it must be ` or \\",
                )
            return match[2]
    return "\\"


def _logical_lines(lines: list[str], escape: str) -> Iterator[tuple[int, str]]:
    """Join continuation lines; comments and empty lines inside an instruction are dropped."""
    gathered, start = "", 0
    continued = False
    for number, line in enumerate(lines, start=1):
        stripped = line.strip()
        if stripped.startswith("#") or not stripped:
            continue
        if not continued:
            start = number
        tail = line.rstrip()
        continued = tail.endswith(escape) and not tail.endswith(escape * 2)
        gathered += tail[: -len(escape)] if continued else tail
        if not continued:
            yield start, gathered
            gathered = ""
    if gathered.strip():
        yield start, gathered


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
