"""NAME=VALUE lists: --env, --env-file, --label, --label-file, --sysctl and their like. Pure but for the files."""

from __future__ import annotations

import os
from collections.abc import Sequence

from longshore.cli.flags import invalid


def lines_of(file: str, flag: str) -> list[str]:
    """The lines of such a file without comments and blank ones. Raises FlagError."""
    try:
        with open(file, encoding="utf-8-sig") as stream:
            lines = stream.read().splitlines()
    except OSError as cause:
        raise invalid(flag, file, cause.strerror or "cannot be read") from cause
    except UnicodeDecodeError as cause:
        raise invalid(flag, file, "is not UTF-8") from cause
    return [line.lstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def environment(values: Sequence[str], files: Sequence[str]) -> list[str]:
    """--env-file and -e; a bare name takes this process's value.

    Where there is none, the name from a file is left out, and that of -e takes the image's variable away.
    Raises FlagError.
    """
    from_files: list[str] = []
    for file in files:
        for line in lines_of(file, "--env-file"):
            name = line.partition("=")[0]
            if not name or any(char.isspace() for char in name):
                raise invalid("--env-file", file, f"variable {name!r} contains whitespace or is empty")
            if "=" in line or name in os.environ:
                from_files.append(line)
    for text in values:
        if not text.partition("=")[0]:
            raise invalid("--env", text, "the name is missing")
    return [
        text if "=" in text or text not in os.environ else f"{text}={os.environ[text]}"
        for text in [*from_files, *values]
    ]


def labels(values: Sequence[str], files: Sequence[str] = ()) -> dict[str, str]:
    """--label-file and --label: a bare name has the value "". Raises FlagError."""
    lines = [line for file in files for line in lines_of(file, "--label-file")]
    return pairs([*lines, *values], "--label", bare=True)


def pairs(values: Sequence[str], flag: str, *, bare: bool = False) -> dict[str, str]:
    """NAME=VALUE as a map; `bare` names are "". Raises FlagError."""
    out: dict[str, str] = {}
    for text in values:
        name, given, value = text.partition("=")
        if not name.strip() or not (given or bare):
            raise invalid(flag, text, "write NAME=VALUE")
        out[name.strip()] = value
    return out
