"""How lists are shown: tables, `--format`, ages and moments."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from longshore.cli.flags import FlagError, invalid
from longshore.oci.units import human_duration

Row = Mapping[str, Any]


def emit(text: str) -> None:
    """One line on standard output; nothing is looked up and nothing is styled."""
    sys.stdout.write(f"{text}\n")


def age_of(created: int | float | str) -> str:
    """ "3 hours ago" from a Unix time or an RFC 3339 text."""
    if isinstance(created, str):
        try:
            created = timestamp(created)
        except ValueError:
            return "N/A"
    return f"{human_duration(max(0.0, time.time() - created))} ago" if created > 0 else "N/A"


def timestamp(text: str) -> float:
    """The Unix time of an RFC 3339 text. Raises ValueError."""
    from datetime import datetime

    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()


def moment(created: int) -> str:
    """As Go prints a time: "2026-11-22 07:30:50 +0000 UTC"."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(created))


def short_id(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:12]


def ellipsis(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as docker sets them."""
    sys.stdout.write(aligned(["\t".join(headings), *("\t".join(row) for row in rows)]))


def aligned(lines: Sequence[str], *, least: int = 10, gap: int = 3) -> str:
    """Tab-separated lines in columns: at least `least` wide, `gap` blanks between them.

    Go's text/tabwriter: a column is a run of lines that all have a cell there; a line's last cell has no column.
    """
    cells = [line.split("\t") for line in lines]
    widths = [[0] * len(line) for line in cells]
    for column in range(max((len(line) for line in cells), default=0)):
        start = 0
        while start < len(cells):
            end = start
            while end < len(cells) and len(cells[end]) > column + 1:
                end += 1
            width = max((len(line[column]) for line in cells[start:end]), default=0)
            for index in range(start, end):
                widths[index][column] = max(least, width + gap)
            start = max(end, start + 1)
    out = ("".join(map(str.ljust, line, width)) for line, width in zip(cells, widths, strict=True))
    return "".join(f"{line}\n" for line in out)


def show(
    rows: Sequence[Row], columns: Mapping[str, str], *, format: str = "", quiet: str = "", default: str = ""
) -> None:
    """A list of objects as docker shows lists. Raises InvalidArgument for a bad template.

    `columns` names the heading of every field; `default` the fields of the usual table, all of them when empty.
    `quiet` names the one field to print, whatever `format` says.
    """
    if quiet:
        for row in rows:
            emit(str(row[quiet]))
    elif format == "json":
        for row in rows:
            emit(json_row(row))
    elif format and format != "table":
        _formatted(rows, columns, format)
    else:
        names = default.split() or list(columns)
        table([columns[name] for name in names], [[str(row[name]) for name in names] for row in rows])


def json_row(row: Row) -> str:
    """A row as one JSON object: texts in the order of their names, without the methods.

    Byte for byte as docker's, whose encoder escapes what HTML would take for its own.
    """
    values = {name: value for name, value in sorted(row.items()) if not callable(value)}
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _formatted(rows: Sequence[Row], columns: Mapping[str, str], format: str) -> None:
    from longshore.cli.template import Template
    from longshore.cli.template_functions import HEADING_FUNCTIONS

    # docker understands the two-letter spellings, because shells do not
    plain = format.replace("\\t", "\t").replace("\\n", "\n")
    if not plain.startswith("table"):
        template = _row_template(plain)
        for row in rows:
            emit(template.render(row))
        return
    plain = plain.removeprefix("table").strip()
    template = _row_template(plain)
    lines = [Template(plain, HEADING_FUNCTIONS).render(_Headings(columns))]
    sys.stdout.write(aligned([*lines, *(template.render(row) for row in rows)]))


def _row_template(text: str) -> Any:
    from longshore.cli.template import Template

    return Template(text, {"json": _json_value})


def _json_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return json_row(cast("Row", value))
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class _Headings(dict[str, Any]):
    """What a table's template sees in the place of a row."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        super().__init__(columns)
        self["Label"] = _heading_of_label


def _heading_of_label(name: str) -> str:
    """docker's: the last part of a dotted name, words apart."""
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ")


def label_method(labels: Mapping[str, str] | None) -> Callable[[str], str]:
    """What `{{.Label "name"}}` calls."""
    return lambda name: (labels or {}).get(name, "")


def joined_labels(labels: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def show_objects(objects: Sequence[Any], format: str) -> None:
    """What `inspect` found: JSON, or a template for each. Raises InvalidArgument."""
    if format and format != "json":
        from longshore.cli.template import Template

        template = Template(format)
        for value in objects:
            emit(template.render(value))
    elif format == "json":
        emit(json.dumps(objects, separators=(",", ":"), ensure_ascii=False))
    else:
        emit(json.dumps(objects, indent=4, ensure_ascii=False))


def show_object(value: Any, format: str) -> None:
    """One object, for commands that show just one (info, version)."""
    if format == "json":
        emit(json.dumps(value, separators=(",", ":"), ensure_ascii=False))
    else:
        from longshore.cli.template import Template

        emit(Template(format).render(value))


def parse_filters(filters: Sequence[str]) -> dict[str, list[str]] | None:
    """--filter name=value, repeated, as the API's `filters` parameter. Raises FlagError."""
    out: dict[str, list[str]] = {}
    for text in filters:
        name, separator, value = text.partition("=")
        if not separator:
            raise invalid("--filter", text, "bad format of filter (expected name=value)")
        out.setdefault(name.strip().lower(), []).append(value.strip())
    return out or None


def items(value: Mapping[str, Any], name: str) -> list[Any]:
    """A list field of a reply, where Go writes null for an empty one."""
    return cast("list[Any]", value.get(name) or [])


def point_in_time(text: str, flag: str) -> str:
    """A Unix time from what people write: seconds, a date in local time, or how long ago. Raises FlagError."""
    if not text or text.replace(".", "", 1).isdigit():
        return text
    from longshore.errors import InvalidArgument
    from longshore.oci.units import parse_duration

    try:
        return f"{timestamp(text):.9f}"
    except ValueError:
        try:
            return str(int(time.time() - parse_duration(text) / 1e9))  # whole seconds, as docker
        except InvalidArgument as cause:
            raise invalid(
                flag, text, "write 2026-01-02T13:23:37, a Unix time, or 42m for 42 minutes ago"
            ) from cause


__all__ = ["FlagError", "Row", "emit", "show", "show_object", "show_objects", "table"]
