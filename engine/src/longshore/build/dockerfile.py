"""Read a Dockerfile into instructions. Pure: no expansion, no files.

Follows the Dockerfile reference (https://docs.docker.com/reference/dockerfile/): parser directives, comments,
continuation lines, JSON ("exec") forms, flags and here-documents. Errors carry the line and Docker's opening words,
because tools search for them, and show the lines around (`DockerfileError`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from longshore.errors import InvalidArgument
from longshore.oci.dockerfile_instruction import Instruction, parse_instruction, take_heredocs

MAX_LINE = 64 << 10  # as the reference implementation's scanner
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_DIRECTIVES = frozenset({"check", "escape", "syntax"})
_AT_LINE = re.compile(r"dockerfile parse error line (\d+)")


@dataclass(frozen=True, slots=True)
class Dockerfile:
    instructions: tuple[Instruction, ...]
    escape: str  # "\\" or "`", also the escape character of expansions
    lines: tuple[str, ...] = ()  # of the file, without their ends
    directives: dict[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])  # name -> line, value
    empty_continuations: tuple[int, ...] = ()  # lines at which the linter wonders


def parse_dockerfile(text: str) -> Dockerfile:
    """Raises InvalidArgument ("dockerfile parse error line N: …") for what is no Dockerfile."""
    text = text.removeprefix("\ufeff")
    lines = text.splitlines()
    try:
        return _Reader(text).read()
    except InvalidArgument as error:
        raise DockerfileError(error, lines) from error.__cause__


class _Reader:
    def __init__(self, text: str) -> None:
        # not str.splitlines: to a Dockerfile a form feed or U+2028 ends no line
        self.lines = re.findall(r"[^\n]*\n|[^\n]+", text)
        self.directives = _directives(self.lines)
        self.escape = self._escape()
        self.instructions: list[Instruction] = []
        self.empty: list[int] = []
        last = re.escape(self.escape)
        self.continuation = re.compile(rf"(?:(?<!{last}){last}|^{last})[ \t]*$")

    def _escape(self) -> str:
        line, value = self.directives.get("escape", (0, "\\"))
        if value not in ("\\", "`"):
            raise InvalidArgument(
                f"dockerfile parse error line {line}: invalid ESCAPE {value!r}", hint="it must be ` or \\"
            )
        return value

    def read(self) -> Dockerfile:
        position, comments = 0, list[str]()
        while position < len(self.lines):
            line = self.lines[position].strip("\r\n").lstrip()
            if line.startswith("#"):
                words = line[1:].strip()
                directive = position + 1 in {number for number, _ in self.directives.values()}
                comments = [*comments, words] if words and not directive else []
                position += 1
            elif not line.strip():
                position += 1
                comments = []
            else:
                position = self._instruction(position, tuple(comments))
                comments = []
        if not self.instructions:
            raise InvalidArgument(
                "the Dockerfile cannot be empty", detail="file with no instructions", hint="begin it with FROM"
            )
        shown = tuple(line.rstrip("\r\n") for line in self.lines)
        return Dockerfile(
            tuple(self.instructions), self.escape, shown, self.directives, tuple(sorted(set(self.empty)))
        )

    def _instruction(self, start: int, comments: tuple[str, ...]) -> int:
        """One instruction from the line at `start`; returns the index of the line after it."""
        logical, position = self._logical(start)
        if not logical.strip():
            return position
        if len(logical) > MAX_LINE:
            raise InvalidArgument(
                f"dockerfile parse error line {start + 1}: the instruction is longer than {MAX_LINE} characters"
            )
        found = parse_instruction(start + 1, logical, self.escape)
        heredocs, position = take_heredocs(found, self.lines, position)
        if found.keyword == "ONBUILD" and heredocs:
            below = "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in heredocs)
            found = replace(found, text=found.text + below)
        self.instructions.append(replace(found, heredocs=heredocs, end=position, comments=comments))
        return position

    def _logical(self, position: int) -> tuple[str, int]:
        """Continuation lines joined; comments and empty lines between them are dropped."""
        gathered = ""
        first = True
        while position < len(self.lines):
            line = self.lines[position].strip("\r\n") if not first else self.lines[position].strip("\r\n").lstrip()
            position += 1
            if not first and line.lstrip().startswith("#"):
                continue
            if not first and not line.strip():
                self.empty.append(position)
                continue
            first = False
            shorter = self.continuation.sub("", line)
            gathered += shorter
            if shorter == line:
                break
        return gathered, position


def _directives(lines: list[str]) -> dict[str, tuple[int, str]]:
    """Directives stand at the very top, one comment line each; the first other line ends them.

    Raises InvalidArgument for one that is given twice.
    """
    found: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines, start=1):
        match = _DIRECTIVE.fullmatch(line.strip())
        name = match[1].lower() if match else ""
        if match is None or name not in _DIRECTIVES:
            break
        if name in found:
            raise InvalidArgument(
                f"dockerfile parse error line {number}: only one {name} parser directive can be used"
            )
        found[name] = number, match[2]
    return found


class DockerfileError(InvalidArgument):
    """A mistake in a Dockerfile, told with the lines around it."""

    def __init__(self, error: InvalidArgument, lines: Sequence[str]) -> None:
        super().__init__(error.what, detail=error.detail, hint=error.hint)
        match = _AT_LINE.match(error.what)
        self.line = int(match[1]) if match else 0
        self.excerpt = excerpt(lines, self.line) if self.line else ""

    def __str__(self) -> str:
        return super().__str__() + self.excerpt


def excerpt(lines: Sequence[str], line: int, end: int = 0, *, name: str = "Dockerfile") -> str:
    """The lines around a place with `>>>` before those that are meant."""
    last = max(line, end)
    first, final = max(1, line - 2), min(len(lines), last + 2)
    body = [
        f"{number:4} | {'>>>' if line <= number <= last else '   '} {lines[number - 1]}".rstrip()
        for number in range(first, final + 1)
    ]
    rule = "-" * 20
    return "\n".join([f"\n{name}:{line}", rule, *body, rule])
