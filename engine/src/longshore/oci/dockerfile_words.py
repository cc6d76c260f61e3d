"""Words of a Dockerfile: quoting, splitting and variable expansion. Pure.

Rules of https://docs.docker.com/reference/dockerfile/#environment-replacement: single quotes keep everything,
double quotes keep spaces but expand, the escape character takes the next one literally.
"""

import re
from collections.abc import Mapping

from longshore.errors import InvalidArgument

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?!$-]")


def split_words(text: str, escape: str = "\\") -> list[str]:
    """Split at white space outside of quotes; quotes and escapes stay in the words."""
    words: list[str] = []
    word, quote, position = "", "", 0
    while position < len(text):
        char = text[position]
        if char == escape and quote != "'" and position + 1 < len(text):
            word += text[position : position + 2]
            position += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            if word:
                words.append(word)
            word, position = "", position + 1
            continue
        word += char
        position += 1
    if word:
        words.append(word)
    return words


def expand(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """Take off quotes and escapes and put variables in. Unknown variables become empty.

    Raises InvalidArgument for an unclosed brace, an unknown operator or `${x:?message}` without x.
    """
    return _Expansion(text, variables, escape).run()


def expand_words(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    return [expand(word, variables, escape) for word in split_words(text, escape)]


def parse_pairs(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[tuple[str, str]]:
    """`A=1 B="two words"`, or the old form `A all the rest`. Raises InvalidArgument where `=` is missing."""
    words = split_words(text, escape)
    if words and "=" not in words[0]:
        name, _, value = text.strip().partition(" ")
        if not value.strip():
            raise InvalidArgument(f"{name} must have two arguments", hint=f"write {name}=value")
        return [(expand(name, variables, escape), expand(value.strip(), variables, escape))]
    pairs: list[tuple[str, str]] = []
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not name:
            raise InvalidArgument(f"can't find = in {word!r}", hint="must be of the form: name=value")
        pairs.append((expand(name, variables, escape), expand(value, variables, escape)))
    return pairs


class _Expansion:
    def __init__(self, text: str, variables: Mapping[str, str], escape: str) -> None:
        self.text, self.variables, self.escape = text, variables, escape
        self.position = 0

    def run(self, until: str = "") -> str:
        """Expand up to the character `until` (the closing brace of a nested word) or the end."""
        result = ""
        while self.position < len(self.text):
            char = self.text[self.position]
            if char == until:
                return result
            self.position += 1
            if char == "'":
                result += self.quoted_literally()
            elif char == '"':
                result += self.quoted()
            elif char == self.escape and self.position < len(self.text):
                result += self.text[self.position]
                self.position += 1
            elif char == "$":
                result += self.variable()
            else:
                result += char
        if until:
            raise InvalidArgument(f"failed to process {self.text!r}", detail=f"missing {until!r}")
        return result

    def quoted_literally(self) -> str:
        end = self.text.find("'", self.position)
        if end < 0:
            raise InvalidArgument(
                f"failed to process {self.text!r}", detail="unexpected end while looking for '"
            )
        result, self.position = self.text[self.position : end], end + 1
        return result

    def quoted(self) -> str:
        result = ""
        while self.position < len(self.text):
            char = self.text[self.position]
            self.position += 1
            if char == '"':
                return result
            if char == "$":
                result += self.variable()
            elif char == self.escape and self.text[self.position : self.position + 1] in (
                '"',
                "$",
                self.escape,
            ):
                result += self.text[self.position]
                self.position += 1
            else:
                result += char
        raise InvalidArgument(f"failed to process {self.text!r}", detail='unexpected end while looking for "')

    def variable(self) -> str:
        if self.text[self.position : self.position + 1] != "{":
            name = self.name()
            return self.variables.get(name, "") if name else "$"
        self.position += 1
        name = self.name()
        if not name:
            raise InvalidArgument(f"failed to process {self.text!r}", detail="bad substitution")
        operator = self.operator()
        word = self.run(until="}")
        self.position += 1
        return self.substitute(name, operator, word)

    def name(self) -> str:
        match = _NAME.match(self.text, self.position)
        if match is None:
            return ""
        self.position = match.end()
        return match[0]

    def operator(self) -> str:
        for operator in (":-", ":+", ":?", "-", "+", "?"):
            if self.text.startswith(operator, self.position):
                self.position += len(operator)
                return operator
        if self.text[self.position : self.position + 1] != "}":
            raise InvalidArgument(
                f"failed to process {self.text!r}", detail="unsupported modifier in substitution"
            )
        return ""

    def substitute(self, name: str, operator: str, word: str) -> str:
        value = self.variables.get(name)
        # With a colon an empty value counts as unset, as in the POSIX shell.
        present = bool(value) if operator.startswith(":") else value is not None
        match operator.removeprefix(":"):
            case "-":
                return value or "" if present else word
            case "+":
                return word if present else ""
            case "?":
                if not present:
                    raise InvalidArgument(f"{name}: {word or 'not set'}")
                return value or ""
            case _:
                return value or ""
