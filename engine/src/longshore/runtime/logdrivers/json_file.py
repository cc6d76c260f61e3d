"""The driver `json-file`, the default: Docker's format, rotated and compressed.

Where Docker's lets a log grow for ever, this one keeps five files of 20 MB, four of them compressed, unless told
otherwise. Options that are given mean what they mean in Docker: `max-size` alone keeps one file, `max-size=-1` keeps
everything.
"""

from collections.abc import Mapping

from longshore.errors import InvalidArgument
from longshore.runtime.logdrivers import (
    ATTRIBUTE_OPTIONS,
    FilePlan,
    check_known,
    parse_bool,
    parse_decimal_size,
)

OPTIONS = frozenset({"max-size", "max-file", "compress"}) | ATTRIBUTE_OPTIONS
MAX_SIZE, MAX_FILES = 20_000_000, 5


def check(options: Mapping[str, str]) -> None:
    check_known(options, OPTIONS, "json-file")
    plan_file(options, "")


def plan_file(options: Mapping[str, str], name: str) -> FilePlan:
    size, files, compress = limits(options)
    return FilePlan(f"{name}-json.log", "json", size, files, compress)


def limits(options: Mapping[str, str]) -> tuple[int, int, bool]:
    """(max size, 0 for none, max files, whether to compress). Raises InvalidArgument."""
    size = MAX_SIZE
    given = options.get("max-size", "")
    if given == "-1":
        size = 0
    elif given:
        size = parse_decimal_size(given, "max-size")
        if size <= 0:
            raise InvalidArgument("max-size must be a positive number")
    files = max_files(options.get("max-file", ""), 1 if given else MAX_FILES)
    compress = files > 1 and size > 0
    if text := options.get("compress", ""):
        if parse_bool(text) and not compress:
            raise InvalidArgument(
                "compress cannot be true when max-file is less than 2 or max-size is not set"
            )
        compress = parse_bool(text)
    return size, files, compress


def max_files(text: str, default: int) -> int:
    """Raises InvalidArgument."""
    if not text:
        return default
    if not text.lstrip("-").isdigit() or len(text) > 6:
        raise InvalidArgument(f'strconv.Atoi: parsing "{text}": invalid syntax', detail="log opt max-file")
    if int(text) < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    return int(text)
