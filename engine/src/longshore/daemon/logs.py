"""The daemon's log: one record, one line, on standard error (the journal adds its own time and unit)."""

import logging
import sys
import time

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
_NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}


class OneLine(logging.Formatter):
    """`2026-01-31T12:00:00.123Z info longshore.api: text`; line breaks, of tracebacks too, become " | "."""

    converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        stamp = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        level = _NAMES.get(record.levelno, record.levelname.lower())
        text = f"{stamp}.{int(record.msecs):03}Z {level} {record.name}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + record.stack_info
        return " | ".join(line.rstrip() for line in text.splitlines() if line.strip())


def setup(level: str) -> None:
    """Send everything of `level` and above to standard error. Twice is fine: the level changes."""
    root = logging.getLogger()
    if not any(isinstance(handler.formatter, OneLine) for handler in root.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(OneLine())
        root.addHandler(handler)
    root.setLevel(LEVELS[level])
    # What libraries tell at debug level is theirs to read.
    for name in ("asyncio", "pyroute2", "aiohttp"):
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.INFO))
