"""Which log driver a container has, with which options, and what follows from that. See `runtime/logdrivers`."""

import re
import socket
from collections.abc import AsyncGenerator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from longshore.core.model import LogConfig
from longshore.errors import InvalidArgument, Unsupported
from longshore.oci.units import parse_size
from longshore.runtime.logdrivers import Driver, FileDriver, FilePlan, Wanted, local, parse_bool
from longshore.runtime.logfile import LogLine, read_batches
from longshore.runtime.messages import LogHelper, LogSource, LogTarget

if TYPE_CHECKING:
    from longshore.core.containers.record import Record

DEFAULT = "json-file"
NONE = "none"
BUILT_IN = {
    "json-file": "longshore.runtime.logdrivers.json_file",
    "local": "longshore.runtime.logdrivers.local",
    "journald": "longshore.runtime.logdrivers.journald",
    "syslog": "longshore.runtime.logdrivers.syslog",
}
"""Known without a look-up, which costs the first container 15 ms."""

GROUP = "longshore.log_drivers"
BUFFER = 1 << 20  # Docker's max-buffer-size
CACHE_FILE = "container-cached.log"
_CACHE = "cache-"
_CACHE_OPTIONS = frozenset({f"{_CACHE}{name}" for name in local.OPTIONS} | {"cache-disabled"})
_GENERAL = frozenset({"mode", "max-buffer-size"}) | _CACHE_OPTIONS


@cache
def _installed() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)}


def driver_names() -> list[str]:
    """What `info` lists."""
    return sorted({*BUILT_IN, *_installed(), NONE})


def _words(name: str) -> str:
    found = BUILT_IN.get(name) or _installed().get(name)
    if not found:
        raise InvalidArgument(f"logger: no log driver named '{name}' is registered")
    return found


@cache
def _driver(name: str) -> Driver:
    """Raises InvalidArgument in Docker's words, Unsupported when it is installed and broken."""
    module, _, attribute = _words(name).partition(":")
    try:
        found: Any = import_module(module)
        return cast(Driver, getattr(found, attribute) if attribute else found)
    except (ImportError, AttributeError) as cause:
        raise Unsupported(f"cannot load the log driver {name}", detail=str(cause)) from cause


def complete(config: LogConfig, default: LogConfig) -> LogConfig:
    """A container's choice with what the daemon's settings add to it: its driver's options, unless given.

    Raises InvalidArgument for a driver that is not there, in just Docker's words: docker-py looks for them.
    """
    name = config.type or default.type or DEFAULT
    if name != NONE:
        _words(name)
    inherited = default.config or {}
    if name != (default.type or DEFAULT):
        inherited = {key: value for key, value in inherited.items() if key in _CACHE_OPTIONS}
    return LogConfig(type=name, config={**inherited, **(config.config or {})})


def check(config: LogConfig) -> None:
    """Raises InvalidArgument, in Docker's words where it has some."""
    if config.type == NONE:
        return
    options = config.config or {}
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        _buffer(options)
    driver = _driver(config.type or DEFAULT)
    if disabled := options.get("cache-disabled", ""):
        try:
            parse_bool(disabled)
        except InvalidArgument as cause:
            raise InvalidArgument(f"invalid value for option cache-disabled: {disabled}") from cause
    local.check(_cache_options(options))
    for name in ("labels-regex", "env-regex"):
        _pattern(options.get(name, ""), name)
    expand_tag(options.get("tag", ""), LogSource(), {})
    driver.check({key: value for key, value in options.items() if key not in _GENERAL})


def _buffer(options: Mapping[str, str]) -> int:
    try:
        return parse_size(options["max-buffer-size"]) if "max-buffer-size" in options else BUFFER
    except InvalidArgument as cause:
        raise InvalidArgument("error parsing option max-buffer-size", detail=cause.what) from cause


def _cache_options(options: Mapping[str, str]) -> dict[str, str]:
    return {
        key.removeprefix(_CACHE): value
        for key, value in options.items()
        if key in _CACHE_OPTIONS and key != "cache-disabled"
    }


def _pattern(text: str, option: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as cause:
        raise InvalidArgument(f"invalid log opt {option}: {text!r}", detail=str(cause)) from cause


# What is told about a container


def attributes_of(record: "Record", options: Mapping[str, str]) -> dict[str, str]:
    """The labels and variables that the options choose. Pure."""
    variables = dict(entry.split("=", 1) for entry in record.config.env or () if "=" in entry)
    chosen: dict[str, str] = {}
    for option, values in (("labels", record.config.labels or {}), ("env", variables)):
        names = set(filter(None, options.get(option, "").split(",")))
        pattern = _pattern(options.get(f"{option}-regex", ""), f"{option}-regex")
        for name, value in values.items():
            if name in names or (pattern and pattern.search(name)):
                chosen[name] = value
    return chosen


_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")


def expand_tag(template: str, source: LogSource, more: Mapping[str, str]) -> str:
    """A tag from its template, of which fields are known: `{{.Name}}/{{.ID}}`. Raises InvalidArgument. Pure."""
    fields = {
        "ID": source.id[:12],
        "FullID": source.id,
        "Name": source.name,
        "ImageID": source.image_id.removeprefix("sha256:")[:12],
        "ImageFullID": source.image_id,
        "ImageName": source.image_name,
        "DaemonName": "docker",
        "Command": more.get("command", ""),
        "Hostname": more.get("hostname", ""),
    }

    def value(match: re.Match[str]) -> str:
        name = match[1].removeprefix(".")
        if not match[1].startswith(".") or name not in fields:
            raise InvalidArgument(
                f"invalid log opt tag: {match[0]}",
                hint=f"fields: {', '.join(f'.{field}' for field in fields)}",
            )
        return fields[name]

    expanded = _ACTION.sub(value, template)
    if "{{" in expanded:
        raise InvalidArgument(f"invalid log opt tag: {template!r}", detail="unclosed action")
    return expanded


def source_of(record: "Record") -> LogSource:
    """What drivers may tell about a container, from its options."""
    options = record.host_config.log_config.config or {}
    source = LogSource(
        id=record.id,
        name=record.name,
        image_id=record.image_id,
        image_name=record.config.image,
        attributes=attributes_of(record, options),
    )
    driver = _driver(record.host_config.log_config.type or DEFAULT)
    template = options.get("tag", "") or getattr(driver, "DEFAULT_TAG", "")
    more = {"command": " ".join([record.path, *record.args]), "hostname": socket.gethostname()}
    return replace(source, tag=expand_tag(template, source, more))


# Writing and reading


def plan_target(record: "Record", folder: Path) -> LogTarget | None:
    """What the monitor of a container's next run logs to; None: nothing."""
    config = record.host_config.log_config
    if config.type == NONE:
        return None
    options = config.config or {}
    name = config.type or DEFAULT
    source = source_of(record)
    buffer = _buffer(options) if options.get("mode") == "non-blocking" else 0
    plan = file_plan(record)
    target = LogTarget()
    if plan:
        attributes = source.attributes | ({"tag": source.tag} if source.tag else {})
        target = LogTarget(
            path=str(folder / plan.name),
            max_size=plan.max_size,
            max_files=plan.max_files,
            compress=plan.compress,
            format=plan.format,
            attributes=attributes,
        )
    if isinstance(_driver(name), FileDriver):
        # A slow disk must not make the container wait either: then somebody else writes the file
        return LogTarget(helper=LogHelper("", source, buffer=buffer, file=target)) if buffer else target
    own = {key: value for key, value in options.items() if key not in _GENERAL}
    return replace(target, attributes={}, helper=LogHelper(_words(name), source, own, buffer))


def make_folder(target: LogTarget | None) -> None:
    """Where the file of a target will be."""
    helper = target.helper if target else None
    for file in (target, helper.file if helper else None):
        if file and file.path:
            Path(file.path).parent.mkdir(mode=0o710, exist_ok=True)


def file_plan(record: "Record") -> FilePlan | None:
    """The file in the container's folder that has its log, or the copy of what went to somebody who cannot be asked."""
    config = record.host_config.log_config
    options = config.config or {}
    if config.type == NONE:
        return None
    driver = _driver(config.type or DEFAULT)
    if isinstance(driver, FileDriver):
        return driver.plan_file(
            {key: value for key, value in options.items() if key not in _GENERAL}, record.id
        )
    if (
        parse_bool(options.get("cache-disabled", "") or "false")
        or driver.read(LogSource(), Wanted()) is not None
    ):
        return None
    plan = local.plan_file(_cache_options(options), record.id)
    return FilePlan(CACHE_FILE, plan.format, plan.max_size, plan.max_files, plan.compress)


def read(record: "Record", folder: Path, wanted: Wanted) -> AsyncGenerator[list[LogLine]]:
    """The entries, oldest first. Raises Unsupported at once where there is nothing to read."""
    if plan := file_plan(record):
        return read_batches(
            str(folder / plan.name),
            follow=wanted.follow,
            since=wanted.since,
            until=wanted.until,
            tail=wanted.tail,
            stdout=wanted.stdout,
            stderr=wanted.stderr,
            format=plan.format,
        )
    name = record.host_config.log_config.type
    driver = _driver(name) if name != NONE else None
    if driver is not None and not isinstance(driver, FileDriver):
        lines = driver.read(LogSource(id=record.id, name=record.name), wanted)
        if lines is not None:
            return lines
    raise Unsupported("configured logging driver does not support reading")


def log_path(record: "Record", folder: Path) -> str:
    """What inspect shows: of json-file alone, as Docker's."""
    plan = file_plan(record) if record.host_config.log_config.type == DEFAULT else None
    return str(folder / plan.name) if plan else ""
