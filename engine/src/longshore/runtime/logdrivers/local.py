"""The driver `local`: capped and compressed files that nothing but `logs` is meant to read.

Options and defaults are Docker's (20 MB, five files, compressed). The format is the one that Kubernetes' runtimes
write, which is smaller than JSON and keeps every byte.
"""

from collections.abc import Mapping

from longshore.errors import InvalidArgument
from longshore.runtime.logdrivers import FilePlan, parse_bool, parse_decimal_size
from longshore.runtime.logdrivers.json_file import MAX_FILES, MAX_SIZE, max_files

OPTIONS = frozenset({"max-size", "max-file", "compress"})
FILE = "local-logs/container.log"


def check(options: Mapping[str, str]) -> None:
    for name in sorted(options):
        if name not in OPTIONS:
            raise InvalidArgument(f"unknown log opt '{name}' for log driver local")
    plan_file(options, "")


def plan_file(options: Mapping[str, str], name: str) -> FilePlan:
    """Raises InvalidArgument."""
    size = MAX_SIZE
    if text := options.get("max-size", ""):
        size = parse_decimal_size(text, "max-size")
        if size <= 0:
            raise InvalidArgument("max size must be a positive number")
    files = max_files(options.get("max-file", ""), MAX_FILES)
    compress = files > 1
    if text := options.get("compress", ""):
        if parse_bool(text) and not compress:
            raise InvalidArgument("compression cannot be enabled when max file count is 1")
        compress = parse_bool(text)
    return FilePlan(FILE, "cri", size, files, compress)
