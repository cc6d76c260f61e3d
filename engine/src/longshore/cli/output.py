"""How things are shown: tables, sizes, ages and the part of Go's templates that scripts use."""

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import click

from longshore.oci.units import human_duration

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


def age_of(created: int | float | str) -> str:
    """ "3 hours ago" from a Unix time or an RFC 3339 text."""
    if isinstance(created, str):
        try:
            created = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", created)).timestamp()
        except ValueError:
            return "N/A"
    return f"{human_duration(max(0.0, time.time() - created))} ago" if created > 0 else "N/A"


def moment(created: int) -> str:
    """As Go prints a time, in UTC: "2026-11-22 07:30:50 +0000 UTC"."""
    return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")


def short_id(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:12]


def ellipsis(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns with three blanks between them, as docker's tabwriter sets them."""
    lines = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("   ".join(cells).rstrip())


def show(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, format: str = "", quiet: str = ""
) -> None:
    """A list of objects as docker shows lists: a table of `columns` (field to heading), or a template.

    `quiet` names the one field to print, empty for the table or `format`.
    """
    if quiet:
        for row in rows:
            click.echo(row[quiet])
    elif format == "json":
        for row in rows:
            click.echo(json.dumps(row))
    elif format and format != "table":
        head, template = _split_table(format)
        if head:
            fields = [expression.lstrip(".") for expression in _ACTION.findall(template)]
            cells = [[render("{{." + name + "}}", row) for name in fields] for row in rows]
            table([columns.get(name, name.upper()) for name in fields], cells)
        else:
            for row in rows:
                click.echo(render(template, row))
    else:
        table(list(columns.values()), [[str(row[name]) for name in columns] for row in rows])


def _split_table(format: str) -> tuple[bool, str]:
    if format.startswith("table "):
        return True, format[6:]
    return False, format


def render(template: str, value: Any) -> str:
    """Go template subset: fields, `json`, `len`, `index`, `upper`, `lower`, `join`, `println`. Raises UsageError."""
    plain = template.replace("\\t", "\t").replace("\\n", "\n")
    return _ACTION.sub(lambda found: _text(_evaluate(found[1], value)), plain)


def _evaluate(expression: str, value: Any) -> Any:
    words = [(text if text or not bare else None, bare) for text, bare in _WORD.findall(expression)]
    arguments = [_operand(text, bare, value) for text, bare in words if not (bare and bare in _FUNCTIONS)]
    names = [bare for _, bare in words if bare in _FUNCTIONS]
    if len(names) > 1 or (not names and len(arguments) != 1):
        raise click.UsageError(f"template: {expression!r} is beyond what --format understands")
    return _FUNCTIONS[names[0]](*arguments) if names else arguments[0]


def _operand(text: str | None, bare: str, value: Any) -> Any:
    if not bare:
        return text
    if bare.lstrip("-").isdigit():
        return int(bare)
    if not bare.startswith("."):
        raise click.UsageError(f"template: function {bare!r} not defined")
    for name in filter(None, bare.split(".")):
        if not isinstance(value, Mapping):
            raise click.UsageError(f"template: can't evaluate field {name} in {type(value).__name__}")
        fields = cast("Mapping[str, Any]", value)
        if name not in fields:
            raise click.UsageError(f"template: no field {name!r}; there are {', '.join(sorted(fields))}")
        value = fields[name]
    return value


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = cast("Mapping[str, Any]", value).get(str(key), "")
        else:
            value = value[key]
    return value


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _join(values: list[str], separator: str) -> str:
    return separator.join(values)


def _upper(value: Any) -> str:
    return str(value).upper()


def _lower(value: Any) -> str:
    return str(value).lower()


def _println(value: Any) -> str:
    return f"{_text(value)}\n"


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": _json,
    "len": len,
    "index": _index,
    "upper": _upper,
    "lower": _lower,
    "join": _join,
    "println": _println,
}


def _text(value: Any) -> str:
    """As Go prints values in templates."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + " ".join(_text(item) for item in cast("list[Any]", value)) + "]"
    if isinstance(value, Mapping):
        pairs = sorted(cast("Mapping[str, Any]", value).items())
        return "map[" + " ".join(f"{key}:{_text(item)}" for key, item in pairs) + "]"
    return str(value)


def parse_filters(filters: Sequence[str]) -> dict[str, list[str]] | None:
    """--filter name=value, repeated, as the API's `filters` parameter."""
    out: dict[str, list[str]] = {}
    for text in filters:
        name, separator, value = text.partition("=")
        if not separator:
            raise click.UsageError(f"invalid argument {text!r} for --filter: write name=value")
        out.setdefault(name.strip(), []).append(value)
    return out or None


def items(value: Mapping[str, Any], name: str) -> list[Any]:
    """A list field of a reply, where Go writes null for an empty one."""
    return cast("list[Any]", value.get(name) or [])


class Progress:
    """Shows Docker's progress stream: lines move in place on a terminal, are told once elsewhere."""

    def __init__(self, *, quiet: bool = False, stream: Any = None) -> None:
        self._stream = stream or sys.stdout
        self._rows: list[str] = []
        self._texts: dict[str, str] = {}
        self._quiet = quiet
        self._tty = self._stream.isatty()

    def feed(self, message: Mapping[str, Any]) -> None:
        """Show one message. Raises ClickException when it tells of an error."""
        if "error" in message:
            raise click.ClickException(str(message["error"]))
        if self._quiet:
            return
        if "stream" in message:
            self._stream.write(message["stream"])
        elif identifier := message.get("id"):
            self._row(str(identifier), str(message.get("status", "")), str(message.get("progress", "")))
        elif "status" in message:
            self._stream.write(f"{message['status']}\n")
        self._stream.flush()

    def _row(self, identifier: str, status: str, bar: str) -> None:
        if not self._tty:
            if not bar and self._texts.get(identifier) != status:
                self._stream.write(f"{identifier}: {status}\n")
            self._texts[identifier] = status
            return
        if identifier not in self._rows:
            self._rows.append(identifier)
            self._stream.write("\n")
        up = len(self._rows) - self._rows.index(identifier)
        self._stream.write(f"\x1b[{up}A\x1b[2K\r{identifier}: {status} {bar}\x1b[{up}B\r")
