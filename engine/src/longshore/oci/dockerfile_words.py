"""Words of a Dockerfile: quoting, splitting and variable expansion. Pure.

Rules of https://docs.docker.com/reference/dockerfile/#environment-replacement: single quotes keep everything,
double quotes keep spaces but expand, the escape character takes the next one literally.
"""

import re
from collections.abc import Mapping

from longshore.errors import InvalidArgument

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?!$-]")
_OPERATORS = (":-", ":+", ":?", "-", "+", "?", "##", "#", "%%", "%", "//", "/")
MAX_EXPANDED = 1 << 20  # characters that one text may expand to


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


def expand(
    text: str,
    variables: Mapping[str, str],
    escape: str = "\\",
    *,
    unknown: set[str] | None = None,
    quotes: bool = True,
) -> str:
    """Put variables in and take off quotes (unless `quotes` is false) and escapes. Unknown variables become empty.

    Their names are added to `unknown`. Raises InvalidArgument for an unclosed brace or quote, an unknown operator,
    `${x:?message}` without x.
    """
    return _Expansion(text, variables, escape, unknown, quotes).run()


def expand_words(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    return [expand(word, variables, escape) for word in split_words(text, escape)]


def parse_pairs(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[tuple[str, str]]:
    """`A=1 B="two words"`, or the old form `A all the rest`. Raises InvalidArgument where `=` is missing."""
    return [
        (expand(name, variables, escape), expand(value, variables, escape))
        for name, value in pairs_of(text, escape)
    ]


def pairs_of(text: str, escape: str = "\\") -> list[tuple[str, str]]:
    """The same before expansion."""
    words = split_words(text, escape)
    if is_legacy_pair(text, escape):
        name, _, value = text.strip().partition(" ")
        if not value.strip():
            raise InvalidArgument(f"{name} must have two arguments", hint=f"write {name}=value")
        return [(name, value.strip())]
    pairs: list[tuple[str, str]] = []
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not name:
            raise InvalidArgument(f"can't find = in {word!r}", hint="must be of the form: name=value")
        pairs.append((name, value))
    return pairs


def is_legacy_pair(text: str, escape: str = "\\") -> bool:
    """Whether ENV or LABEL is written as `NAME value` without "="."""
    words = split_words(text, escape)
    return bool(words) and "=" not in words[0]


class _Expansion:
    """One pass over the text. `raw`: escapes stay, because a pattern follows its own rules for them."""

    def __init__(
        self, text: str, variables: Mapping[str, str], escape: str, unknown: set[str] | None, quotes: bool
    ) -> None:
        self.text, self.variables, self.escape = text, variables, escape
        self.unknown, self.quotes = unknown, quotes
        self.position = 0
        self.depth = 0
        self.size = 0  # of all values that were put in

    def wrong(self, why: str) -> InvalidArgument:
        return InvalidArgument(f"failed to process {self.text[:200]!r}", detail=why)

    def peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def run(self, until: str = "", *, raw: bool = False) -> str:
        """Up to the end, or to a character that is taken, too."""
        result: list[str] = []
        while self.position < len(self.text):
            char = self.text[self.position]
            self.position += 1
            if char == until:
                return "".join(result)
            if char == "'" and self.quotes:
                result.append(self.quoted_literally())
            elif char == '"' and self.quotes:
                result.append(self.quoted())
            elif char == "$":
                result.append(self.variable())
            elif char == self.escape:
                if raw:
                    result.append(char)
                result.append(self.peek())  # nothing at the very end
                self.position += 1
            else:
                result.append(char)
        if until:
            raise self.wrong(f"syntax error: missing {until!r}")
        return "".join(result)

    def quoted_literally(self) -> str:
        end = self.text.find("'", self.position)
        if end < 0:
            raise self.wrong("unexpected end of statement while looking for matching single-quote")
        result, self.position = self.text[self.position : end], end + 1
        return result

    def quoted(self) -> str:
        result: list[str] = []
        while self.position < len(self.text):
            char = self.text[self.position]
            self.position += 1
            if char == '"':
                return "".join(result)
            if char == "$":
                result.append(self.variable())
            elif char == self.escape and self.peek() and self.peek() in ('"', "$", self.escape):
                result.append(self.peek())
                self.position += 1
            elif char != self.escape or self.peek():
                result.append(char)
        raise self.wrong("unexpected end of statement while looking for matching double-quote")

    def variable(self) -> str:
        if self.peek() != "{":
            name = self.name()
            return self.value(name) or "" if name else "$"
        self.position += 1
        name = self.name()
        if not name:
            raise self.wrong("syntax error: bad substitution" if self.peek() else "syntax error: missing '}'")
        self.depth += 1
        if self.depth > 50:
            raise self.wrong("too many nested substitutions")
        try:
            return self.braces(name)
        finally:
            self.depth -= 1

    def name(self) -> str:
        match = _NAME.match(self.text, self.position)
        if match is None:
            return ""
        self.position = match.end()
        return match[0]

    def value(self, name: str) -> str | None:
        value = self.variables.get(name)
        if value is None and self.unknown is not None:
            self.unknown.add(name)
        self.grow(len(value or ""))
        return value

    def grow(self, size: int) -> None:
        """Raises InvalidArgument when so much more would be too much."""
        self.size += size
        if self.size > MAX_EXPANDED:
            raise self.wrong(f"it expands to more than {MAX_EXPANDED} characters")

    def braces(self, name: str) -> str:
        """What stands after `${NAME`."""
        if self.peek() == "}":
            self.position += 1
            return self.value(name) or ""
        operator = next((found for found in _OPERATORS if self.text.startswith(found, self.position)), "")
        if not operator:
            shown = self.text[self.position : self.position + 2] or "}"
            raise self.wrong(f"unsupported modifier ({shown}) in substitution")
        self.position += len(operator)
        if operator[0] == "/":
            pattern = self.run("/", raw=True)
            replacement = self.run("}", raw=True)
            return self.replaced(self.value(name) or "", pattern, replacement, everywhere=operator == "//")
        word = self.run("}", raw=operator[0] in "#%")
        if operator[0] in "#%":
            return _trimmed(self.value(name) or "", word, operator)
        return self.substitute(name, operator, word)

    def replaced(self, value: str, pattern: str, replacement: str, *, everywhere: bool) -> str:
        """${v/p/r} and ${v//p/r}. An escaped slash or brace in the replacement is meant as itself."""
        text = re.sub(r"\\([/}])", r"\1", replacement)
        expression = re.compile(_regex(pattern, greedy=True))

        def put(_match: re.Match[str]) -> str:
            self.grow(len(text))
            return text

        return expression.sub(put, value, count=0 if everywhere else 1)

    def substitute(self, name: str, operator: str, word: str) -> str:
        value = self.variables.get(name)
        self.grow(len(value or ""))
        # With a colon an empty value counts as unset, as in the POSIX shell.
        present = bool(value) if operator.startswith(":") else value is not None
        match operator[-1]:
            case "-":
                return value or "" if present else word
            case "+":
                return word if present else ""
            case _:
                if not present:
                    unset = "is not allowed to be unset" if value is None else "is not allowed to be empty"
                    raise self.wrong(f"{name}: {word or unset}")
                return value or ""


def _regex(pattern: str, *, greedy: bool) -> str:
    """A shell pattern of `*`, `?` and escapes as a regular expression. Raises InvalidArgument."""
    out, position = "", 0
    star = "(?s:.*)" if greedy else "(?s:.*?)"
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            out += "" if out.endswith(star) else star  # ** is no more than *, but slower by far
        elif char == "?":
            out += "(?s:.)"
        elif char == "\\":
            following = pattern[position : position + 1]
            if not following or following not in "*?\\}/":
                raise InvalidArgument(
                    f"invalid pattern ({pattern[:100]}) in substitution",
                    detail=f"invalid escape '\\{following}'",
                )
            out += re.escape(following)
            position += 1
        else:
            out += re.escape(char)
    return out


def _trimmed(value: str, pattern: str, operator: str) -> str:
    """${v#p} ${v##p} ${v%p} ${v%%p}: the shortest or longest match gone from the start or the end."""
    expression = re.compile(_regex(pattern, greedy=len(operator) == 2))
    if operator[0] == "#":
        found = expression.match(value)
        return value[found.end() :] if found else value
    ends = re.compile(f"(?:{expression.pattern})\\Z")
    places = range(len(value) + 1) if len(operator) == 2 else range(len(value), -1, -1)
    return next((value[:place] for place in places if ends.match(value, place)), value)
