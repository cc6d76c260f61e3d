""".dockerignore: which files of a folder the builder gets to see. Pure."""

from __future__ import annotations

import os
import re


class Ignore:
    """.dockerignore: patterns in order, the last one that matches decides, `!` takes back.

    Go's filepath.Match with `**` (https://docs.docker.com/build/concepts/context/#dockerignore-files).
    """

    def __init__(self, text: str) -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for line in text.splitlines():
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            keep = line.startswith("!")
            pattern = os.path.normpath(line.removeprefix("!").strip().lstrip("/") or ".")
            if pattern != ".":
                self._rules.append((keep, re.compile(_glob(pattern))))
        self._takes_back = any(keep for keep, _ in self._rules)

    def excludes(self, path: str) -> bool:
        """Whether this path (relative, with /) or a directory above it is left out."""
        parts = path.split("/")
        out = False
        for keep, pattern in self._rules:
            if any(pattern.fullmatch("/".join(parts[:count])) for count in range(1, len(parts) + 1)):
                out = not keep
        return out

    def prunes(self, directory: str) -> bool:
        """Whether nothing below can come back, so that it need not be walked."""
        return not self._takes_back and self.excludes(directory)


def _glob(pattern: str) -> str:
    out, position = "", 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            out += "(?:.*/)?"
            position += 3
        elif pattern.startswith("**", position):
            out += ".*"
            position += 2
        elif pattern[position] == "*":
            out += "[^/]*"
            position += 1
        elif pattern[position] == "?":
            out += "[^/]"
            position += 1
        elif pattern[position] == "[" and (end := pattern.find("]", position + 2)) > 0:
            out += pattern[position : end + 1].replace("[!", "[^", 1)
            position = end + 1
        elif pattern[position] == "\\" and position + 1 < len(pattern):
            out += re.escape(pattern[position + 1])
            position += 2
        else:
            out += re.escape(pattern[position])
            position += 1
    return out
