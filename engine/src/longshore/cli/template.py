"""`--format`: Go's templates over JSON values, as far as people use them with docker.

The packages that render Go templates from Python bring a compiled Go library along; this is the language itself
(https://pkg.go.dev/text/template): pipelines, variables, if, range, with, break, continue, the comparison and text
functions, and docker's own (json, join, split, title, upper, lower, pad, truncate). Not here: define, template, block.

`Template(text)` reads once and refuses what it does not understand; `render(value)` may be called for every row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from longshore.cli.template_functions import FUNCTIONS, go_text, truth
from longshore.errors import InvalidArgument

Scope = dict[str, Any]

_ACTION = re.compile(
    r"\{\{(-\s)?\s*((?:\"(?:[^\"\\]|\\.)*\"|`[^`]*`|/\*.*?\*/|[^\"`])*?)\s*(\s-)?\}\}", re.DOTALL
)
_TOKEN = re.compile(
    r"""\s*(?: (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`) | (?P<char>'(?:[^'\\]|\\.)+')
      | (?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?))
      | (?P<field>\.[A-Za-z_]\w*) | (?P<dot>\.) | (?P<variable>\$\w*) | (?P<word>[A-Za-z_]\w*)
      | (?P<sign>:=|[=|(),]) )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[0-7]{3}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def problem(why: str) -> InvalidArgument:
    return InvalidArgument(f"template: {why}")


class Template:
    """Raises InvalidArgument at once for what is no template."""

    def __init__(self, text: str, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._functions = {**FUNCTIONS, **(functions or {})}
        self._nodes = _Reader(text, self._functions).nodes()

    def render(self, value: Any) -> str:
        """Raises InvalidArgument where the value has no such field."""
        out: list[str] = []
        run = _Run(self._functions, out)
        try:
            run.all(self._nodes, value, {"$": value})
        except (_Break, _Continue) as cause:
            raise problem("break or continue outside of range") from cause
        return "".join(out)


def unquote(text: str) -> str:
    """A Go string or rune literal as its text."""
    if text[0] == "`":
        return text[1:-1]

    def plain(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] in "ux" and len(code) > 1:
            return chr(int(code[1:], 16))
        return chr(int(code, 8)) if len(code) == 3 else _ESCAPES.get(code, code)

    return _ESCAPE.sub(plain, text[1:-1])


# Reading. A node is a tuple whose first item says what it is:
#   ("text", str)  ("show", pipe)  ("set", pipe)  ("if" | "with", pipe, body, otherwise)
#   ("range", names, pipe, body, otherwise)  ("break",)  ("continue",)
# A pipe is (names to declare, whether new, commands); a command is a list of operands; an operand is
#   ("value", x)  ("field", operand or None, names)  ("variable", name)  ("call", function's name)  ("pipe", pipe)
Node = tuple[Any, ...]


class _Reader:
    def __init__(self, text: str, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._pieces = list(self._split(text))
        self._functions = functions
        self._position = 0

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, str]]:
        """("text", …) and ("action", …) in turn, blanks trimmed where `{{-` and `-}}` say so."""
        position, trim = 0, False
        for found in _ACTION.finditer(text):
            before = text[position : found.start()]
            before = before.lstrip() if trim else before
            before = before.rstrip() if found[1] else before
            if "{{" in before:
                raise problem("unclosed action")
            if before:
                yield "text", before
            if not found[2].startswith("/*"):
                yield "action", found[2]
            position, trim = found.end(), bool(found[3])
        rest = text[position:]
        if "{{" in rest:
            raise problem("unclosed action")
        if rest := rest.lstrip() if trim else rest:
            yield "text", rest

    def nodes(self) -> list[Node]:
        body, end = self._body()
        if end:
            raise problem(f"unexpected {{{{{end}}}}}")
        return body

    def _body(self) -> tuple[list[Node], str]:
        """Nodes up to `end` or `else …`, and that action's text ("" at the end of the template)."""
        nodes: list[Node] = []
        while self._position < len(self._pieces):
            kind, text = self._pieces[self._position]
            self._position += 1
            if kind == "text":
                nodes.append(("text", text))
                continue
            keyword, _, rest = text.partition(" ")
            if keyword in ("end", "else"):
                return nodes, text
            match keyword:
                case "if" | "with" | "range":
                    nodes.append(self._block(keyword, rest))
                case "break" | "continue":
                    nodes.append((keyword,))
                case "define" | "template" | "block":
                    raise problem(f"{keyword} is beyond what --format understands")
                case _:
                    pipe = self._pipe(text)
                    nodes.append(("set" if pipe[0] else "show", pipe))
        return nodes, ""

    def _block(self, keyword: str, rest: str) -> Node:
        pipe = self._pipe(rest)
        body, end = self._body()
        otherwise: list[Node] = []
        if end.startswith("else"):
            again, _, condition = end.removeprefix("else").strip().partition(" ")
            if again:
                if again != keyword or keyword == "range":
                    raise problem(f"unexpected {{{{{end}}}}}")
                otherwise, end = [self._block(again, condition)], "end"
            else:
                otherwise, end = self._body()
        if end != "end":
            raise problem(f"{{{{{keyword}}}}} without its {{{{end}}}}")
        return (keyword, pipe, body, otherwise)

    def _pipe(self, text: str) -> Node:
        tokens = _tokens(text)
        pipe = _pipeline(tokens, self._functions)
        if tokens:
            raise problem(f"unexpected {tokens[0][1]!r} in {text!r}")
        return pipe


def _tokens(text: str) -> list[tuple[str, str, bool]]:
    """(kind, text, whether blanks stand before it)."""
    out: list[tuple[str, str, bool]] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            raise problem(f"unexpected {text[position:][:20]!r}")
        word = found[found.lastgroup]
        out.append((found.lastgroup, word, found.end() - len(word) > position))
        position = found.end()
    return out


def _pipeline(tokens: list[tuple[str, str, bool]], functions: Mapping[str, Any]) -> Node:
    names: list[str] = []
    fresh = True
    ahead = 0
    while ahead + 1 < len(tokens) and tokens[ahead][0] == "variable":
        sign = tokens[ahead + 1][1]
        if sign in (":=", "="):
            names = [tokens[index][1] for index in range(0, ahead + 1, 2)]
            fresh = sign == ":="
            del tokens[: ahead + 2]
            break
        if sign != ",":
            break
        ahead += 2
    commands: list[list[Node]] = []
    while True:
        operands: list[Node] = []
        while tokens and tokens[0][1] not in ("|", ")"):
            operands.append(_operand(tokens, functions))
        if not operands:
            raise problem("missing value for command")
        commands.append(operands)
        if not tokens or tokens[0][1] == ")":
            return (names, fresh, commands)
        tokens.pop(0)


def _operand(tokens: list[tuple[str, str, bool]], functions: Mapping[str, Any]) -> Node:
    kind, text, _ = tokens.pop(0)
    match kind:
        case "string" | "char":
            found: Node = ("value", unquote(text) if kind == "string" else ord(unquote(text)))
        case "number":
            found = (
                "value",
                float(text) if re.search(r"[.eE]", text) and "x" not in text.lower() else int(text, 0),
            )
        case "field":
            found = ("field", None, [text[1:]])
        case "dot":
            found = ("field", None, [])
        case "variable":
            found = ("variable", text)
        case "word" if text in ("true", "false", "nil"):
            found = ("value", {"true": True, "false": False, "nil": None}[text])
        case "word":
            if text not in functions:
                raise problem(f"function {text!r} not defined")
            found = ("call", text)
        case _ if text == "(":
            found = ("pipe", _pipeline(tokens, functions))
            if not tokens or tokens.pop(0)[1] != ")":
                raise problem("unclosed left parenthesis")
        case _:
            raise problem(f"unexpected {text!r}")
    names: list[str] = []
    while tokens and tokens[0][0] == "field" and not tokens[0][2]:
        names.append(tokens.pop(0)[1][1:])
    if not names:
        return found
    if found[0] == "field" and found[1] is None:
        return ("field", None, [*found[2], *names])
    return ("field", found, names)


class _Run:
    def __init__(self, functions: Mapping[str, Callable[..., Any]], out: list[str]) -> None:
        self._functions, self._out = functions, out

    def all(self, nodes: Sequence[Node], dot: Any, scope: Scope) -> None:
        for node in nodes:
            match node[0]:
                case "text":
                    self._out.append(node[1])
                case "show":
                    self._out.append(go_text(self._value(node[1], dot, scope)))
                case "set":
                    self._value(node[1], dot, scope)
                case "if" | "with":
                    self._choose(node, dot, scope)
                case "range":
                    self._range(node, dot, scope)
                case "break":
                    raise _Break
                case _:
                    raise _Continue

    def _choose(self, node: Node, dot: Any, scope: Scope) -> None:
        keyword, pipe, body, otherwise = node
        inner = _Child(scope)
        value = self._value(pipe, dot, inner)
        if truth(value):
            self.all(body, value if keyword == "with" else dot, inner)
        else:
            self.all(otherwise, dot, _Child(scope))

    def _range(self, node: Node, dot: Any, scope: Scope) -> None:
        _, (names, fresh, commands), body, otherwise = node
        value = self._value(([], True, commands), dot, scope)
        pairs = list(_pairs(value))
        for key, item in pairs:
            inner = _Child(scope)
            given = (item,) if len(names) == 1 else (key, item)
            for name, each in zip(names, given, strict=False):
                inner.declare(name, each) if fresh else inner.assign(name, each)
            try:
                self.all(body, item, inner)
            except _Continue:
                continue
            except _Break:
                break
        if not pairs:
            self.all(otherwise, dot, _Child(scope))

    def _value(self, pipe: Node, dot: Any, scope: Scope) -> Any:
        names, fresh, commands = pipe
        value: Any = None
        for index, operands in enumerate(commands):
            extra = (value,) if index else ()
            value = self._command(operands, dot, scope, extra)
        for name in names:
            if fresh or not isinstance(scope, _Child):
                scope[name] = value
            else:
                scope.assign(name, value)
        return value

    def _command(self, operands: list[Node], dot: Any, scope: Scope, extra: tuple[Any, ...]) -> Any:
        first, *rest = operands
        arguments = [self._operand(each, dot, scope) for each in rest] + list(extra)
        if first[0] == "call":
            return self._call(first[1], arguments)
        value = self._operand(first, dot, scope)
        if callable(value):  # a row's method, such as {{.Label "name"}}
            return self._guarded(str(first[-1][-1]), value, arguments)
        if arguments:
            raise problem("can't give argument to non-function")
        return value

    def _call(self, name: str, arguments: list[Any]) -> Any:
        return self._guarded(name, self._functions[name], arguments)

    @staticmethod
    def _guarded(name: str, function: Callable[..., Any], arguments: list[Any]) -> Any:
        try:
            return function(*arguments)
        except InvalidArgument:
            raise
        except (TypeError, ValueError, LookupError, AttributeError) as cause:
            raise problem(f"error calling {name}: {cause}") from cause

    def _operand(self, operand: Node, dot: Any, scope: Scope) -> Any:
        match operand[0]:
            case "value":
                return operand[1]
            case "variable":
                if operand[1] not in scope:
                    raise problem(f"undefined variable {operand[1]!r}")
                return scope[operand[1]]
            case "field":
                value = dot if operand[1] is None else self._operand(operand[1], dot, scope)
                for name in operand[2]:
                    value = field(value, name)
                return value
            case "pipe":
                return self._value(operand[1], dot, _Child(scope))
            case _:
                return self._call(operand[1], [])


class _Child(dict[str, Any]):
    """Variables of a block: seen from inside only, changes to outer ones stay."""

    def __init__(self, parent: Scope) -> None:
        super().__init__()
        self._parent = parent

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self._parent

    def __missing__(self, key: str) -> Any:
        return self._parent[key]

    def declare(self, name: str, value: Any) -> None:
        self[name] = value

    def assign(self, name: str, value: Any) -> None:
        if super().__contains__(name):
            self[name] = value
        elif isinstance(self._parent, _Child):
            self._parent.assign(name, value)
        else:
            self._parent[name] = value


def field(value: Any, name: str) -> Any:
    """A field of an object or a key of a map. JSON does not tell them apart; Go's fields begin with a capital."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        if name in fields:
            return fields[name]
        if not name[0].isupper():
            return None
        shown = ", ".join(sorted(str(key) for key in fields)[:40])
        raise problem(f"there is no field {name!r} (there are: {shown})")
    if value is None:
        raise problem(f"nil pointer evaluating .{name}")
    raise problem(f"can't evaluate field {name} in {type(value).__name__}")


def _pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    """Go ranges over maps in the order of their keys."""
    if value is None:
        return iter(())
    if isinstance(value, Mapping):
        return iter(sorted(cast("Mapping[str, Any]", value).items()))
    if isinstance(value, list | tuple):
        return iter(enumerate(cast("Sequence[Any]", value)))
    if isinstance(value, int) and not isinstance(value, bool):
        return iter((number, number) for number in range(value))
    raise problem(f"range can't iterate over {go_text(value)}")
