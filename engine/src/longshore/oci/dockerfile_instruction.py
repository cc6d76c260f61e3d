"""One instruction of a Dockerfile: its keyword, flags and words. Pure: no expansion, no files.

Follows the Dockerfile reference (https://docs.docker.com/reference/dockerfile/). Errors carry the line and Docker's
opening words, because tools search for them.
"""

import json
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import cast

from longshore.errors import InvalidArgument

# Keyword -> the flags it knows. One in BOOLEAN may stand without a value, one in REPEATED several times.
FLAGS: dict[str, frozenset[str]] = {
    "ADD": frozenset({"chown", "chmod", "checksum", "exclude", "keep-git-dir", "link", "unpack"}),
    "ARG": frozenset(),
    "CMD": frozenset(),
    "COPY": frozenset({"from", "chown", "chmod", "exclude", "link", "parents"}),
    "ENTRYPOINT": frozenset(),
    "ENV": frozenset(),
    "EXPOSE": frozenset(),
    "FROM": frozenset({"platform"}),
    "HEALTHCHECK": frozenset({"interval", "timeout", "start-period", "start-interval", "retries"}),
    "LABEL": frozenset(),
    "MAINTAINER": frozenset(),
    "ONBUILD": frozenset(),
    "RUN": frozenset({"mount", "network", "security"}),
    "SHELL": frozenset(),
    "STOPSIGNAL": frozenset(),
    "USER": frozenset(),
    "VOLUME": frozenset(),
    "WORKDIR": frozenset(),
}
BOOLEAN = frozenset({"keep-git-dir", "link", "parents", "unpack"})
REPEATED = frozenset({"exclude", "mount"})
REFUSED: dict[str, str] = {"device": "devices are not given to RUN here"}
# In these a JSON array is the exec form; elsewhere it is ordinary text.
JSON_FORMS = frozenset({"ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME"})
HEREDOCS = frozenset({"ADD", "COPY", "RUN"})

_BOOLEANS = {"true": "true", "1": "true", "t": "true", "false": "false", "0": "false", "f": "false"}
_SPACE = re.compile(r"[\t\v\f\r ]+")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """`<<NAME` and the lines up to NAME, each with its line end."""

    name: str
    content: str
    expand: bool = True  # the name is not quoted: variables are put in where the builder itself uses the text
    chomp: bool = False  # <<-: leading tabs go

    @property
    def data(self) -> str:
        return re.sub(r"(?m)^\t+", "", self.content) if self.chomp else self.content


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction as written: continuation lines joined, flags taken off, nothing expanded."""

    line: int
    keyword: str  # upper case
    text: str  # the arguments after the flags
    flags: dict[str, str]  # of a repeated one the last
    words: tuple[str, ...] | None = None  # the JSON form, None for the plain ("shell") form
    heredocs: tuple[Heredoc, ...] = ()
    repeated: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])  # of REPEATED
    end: int = 0  # its last line, here-documents included
    written: str = ""  # the keyword as the file has it
    comments: tuple[str, ...] = ()  # comment lines directly above

    @property
    def original(self) -> str:
        """The instruction in one line, as progress and history show it."""
        flags = "".join(
            f"--{name} " if name in BOOLEAN and value == "true" else f"--{name}={value} "
            for name, given in self.flags.items()
            for value in (self.repeated.get(name) or (given,))
        )
        return f"{self.keyword} {flags}{self.text}".rstrip()

    def flag(self, name: str) -> bool:
        return self.flags.get(name) == "true"

    def error(self, problem: str, *, hint: str = "") -> InvalidArgument:
        return InvalidArgument(f"dockerfile parse error line {self.line}: {problem}", hint=hint)


def parse_instruction(line: int, logical: str, escape: str = "\\") -> Instruction:
    """One logical line; ONBUILD triggers come through here a second time, perhaps with here-documents below.

    Raises InvalidArgument.
    """
    logical, _, below = logical.lstrip().partition("\n")
    written, *tail = _SPACE.split(logical.strip(), maxsplit=1)
    keyword, rest = written.upper(), tail[0].strip() if tail else ""
    found = Instruction(line, keyword, rest, {}, end=line, written=written)
    if keyword not in FLAGS:
        close = get_close_matches(keyword, FLAGS, n=1)
        raise found.error(
            f"unknown instruction: {written}", hint=f"did you mean {close[0]}?" if close else ""
        )
    flags, repeated, rest = _take_flags(found, escape)
    if not rest and keyword not in ("CMD", "ENTRYPOINT"):
        raise found.error(f"{keyword} requires at least one argument")
    words = _json_form(rest) if keyword in JSON_FORMS else None
    if keyword == "SHELL" and not words:
        raise found.error('SHELL requires the arguments to be in JSON form, like ["/bin/bash", "-c"]')
    result = Instruction(line, keyword, rest, flags, words, (), repeated, line, written)
    return _with_heredocs_below(result, below) if below else result


def _take_flags(
    instruction: Instruction, escape: str
) -> tuple[dict[str, str], dict[str, tuple[str, ...]], str]:
    flags: dict[str, str] = {}
    repeated: dict[str, tuple[str, ...]] = {}
    rest = instruction.text
    known = FLAGS[instruction.keyword]
    while known and rest.startswith("--"):
        word, rest = _first_word(rest, escape)
        if word == "--":
            break
        name, separator, value = word[2:].partition("=")
        if name in REFUSED:
            raise instruction.error(f"--{name} is not supported", hint=REFUSED[name])
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else ""
            raise instruction.error(f"unknown flag: --{name}", hint=hint)
        if name in BOOLEAN:
            value = _BOOLEANS.get(value.lower() if separator else "true", "")
            if not value:
                raise instruction.error(f"expecting boolean value for flag --{name}, not: {word}")
        elif not separator:
            raise instruction.error(f"missing a value on flag: --{name}")
        if name in REPEATED:
            repeated[name] = (*repeated.get(name, ()), value)
        elif name in flags:
            raise instruction.error(f"duplicate flag specified: --{name}")
        flags[name] = value
    return flags, repeated, rest


def _first_word(text: str, escape: str) -> tuple[str, str]:
    """A flag with its quotes and escapes taken off, and what follows it."""
    word, quote, position = "", "", 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == escape and position < len(text):
            word += text[position]
            position += 1
        elif quote:
            quote, word = ("", word) if char == quote else (quote, word + char)
        elif char in "'\"":
            quote = char
        elif char.isspace():
            break
        else:
            word += char
    return word, text[position:].lstrip()


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


# Here-documents

_HEREDOC = re.compile(r"\d*<<(-?)\s*([^<]*)")


def heredocs_in(instruction: Instruction) -> list[Heredoc]:
    """The here-documents that an instruction announces, still without their lines.

    For ONBUILD those of its trigger. Quotes around a name stop the expansion of the text.
    """
    keyword, text = instruction.keyword, instruction.text
    if keyword == "ONBUILD":
        keyword = text.split(None, 1)[0].upper() if text.strip() else ""
    if keyword not in HEREDOCS or "<<" not in text or (instruction.words is not None):
        return []
    return [found for word in _heredoc_words(text) if (found := parse_heredoc(word))]


def parse_heredoc(word: str) -> Heredoc | None:
    """`<<NAME`, `<<-NAME`, `<<"NAME"`, `3<<NAME`; None for anything else."""
    match = _HEREDOC.fullmatch(word)
    if match is None:
        return None
    bare = match[2].strip()
    name = re.sub(r"""(["'])(.*?)\1""", r"\2", bare)
    if not name or any(char.isspace() for char in name):
        return None
    return Heredoc(name, "", expand=name == bare, chomp=match[1] == "-")


def _heredoc_words(text: str) -> list[str]:
    """Words as a shell sees them, with quotes kept; white space may stand between `<<` and the name."""
    words: list[str] = []
    word, quote, position = "", "", 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == "\\" and quote != "'" and position < len(text):
            word += char + text[position]
            position += 1
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            if re.fullmatch(r"\d*<<-?", word):
                continue
            if word:
                words.append(word)
            word = ""
            continue
        word += char
    return [*words, word] if word else words


def take_heredocs(instruction: Instruction, lines: list[str], start: int) -> tuple[tuple[Heredoc, ...], int]:
    """The announced here-documents with their lines from `lines[start:]`, and the index after them.

    `lines` have their line ends. Raises InvalidArgument for one that does not end.
    """
    found: list[Heredoc] = []
    for heredoc in heredocs_in(instruction):
        content: list[str] = []
        while True:
            if start >= len(lines):
                raise instruction.error("unterminated heredoc", hint=f"end it by a line {heredoc.name}")
            line = lines[start]
            start += 1
            bare = line.rstrip("\r\n")
            if (bare.lstrip("\t") if heredoc.chomp else bare) == heredoc.name:
                break
            content.append(line)
        found.append(Heredoc(heredoc.name, "".join(content), heredoc.expand, heredoc.chomp))
    return tuple(found), start


def _with_heredocs_below(instruction: Instruction, below: str) -> Instruction:
    """Of a trigger, which carries its here-documents in its text."""
    heredocs, _ = take_heredocs(instruction, below.splitlines(keepends=True), 0)
    return Instruction(
        instruction.line, instruction.keyword, instruction.text, instruction.flags, instruction.words, heredocs,
        instruction.repeated, instruction.end, instruction.written,
    )  # fmt: skip
