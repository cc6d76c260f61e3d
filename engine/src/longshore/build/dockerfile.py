"""Read a Dockerfile into instructions. Pure: no expansion, no files.

Follows the Dockerfile reference (https://docs.docker.com/reference/dockerfile/): parser directives, comments,
continuation lines, JSON ("exec") forms and flags. Errors carry the line and Docker's opening words, because
tools search for them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from longshore.errors import InvalidArgument
from longshore.oci.dockerfile_instruction import Instruction, parse_instruction

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$")
_HERE_DOCUMENT = re.compile(r"""\s\d*<<-?(["']?)([A-Za-z_]\w*)\1""")


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
