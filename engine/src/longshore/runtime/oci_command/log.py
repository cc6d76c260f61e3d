"""Log lines and errors as callers of runc read them: text or JSON, in a file or on standard error."""

from __future__ import annotations

import datetime
import sys

from longshore.errors import InvalidArgument


class Log:
    def __init__(self, path: str, form: str, *, debug: bool) -> None:
        if form not in ("text", "json"):
            raise InvalidArgument(f'invalid log-format "{form}"')
        self._path, self._json, self._debug = path, form == "json", debug

    def debug(self, text: str) -> None:
        if self._debug:
            self._write("debug", text)

    def warning(self, text: str) -> None:
        self._write("warning", text)

    def error(self, text: str) -> None:
        """Also on standard error when the log is elsewhere."""
        self._write("error", text)
        if self._path:
            print(f"longshore-oci: {text}", file=sys.stderr)

    def _write(self, level: str, text: str) -> None:
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        if self._json:
            import json  # here: only those who ask for it pay for it

            line = json.dumps({"level": level, "msg": text, "time": time}, separators=(",", ":"))
        else:
            quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            line = f'time="{time}" level={level} msg="{quoted}"'
        try:
            if self._path:
                with open(self._path, "a") as file:
                    file.write(line + "\n")
            else:
                print(line, file=sys.stderr)
        except OSError as error:
            print(f"longshore-oci: cannot write to the log: {error}: {line}", file=sys.stderr)
