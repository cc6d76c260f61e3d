"""What the daemon is told: dockerd's flag names and the keys of its daemon.json, one value out.

A key given both as a flag and in the file is an error, as is an unknown key, so that nobody wonders which
one holds.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit

from longshore import __version__
from longshore.core.log_budget import parse_budget
from longshore.errors import InvalidArgument
from longshore.registry.hosts import parse_mirror

DEFAULT_CONFIG = "/etc/longshore/daemon.json"
DEFAULT_HOST = "unix:///run/longshore/longshore.sock"
TLS_PORT = 2376
CGROUP_DRIVERS = ("systemd", "cgroupfs")
LEVELS = ("debug", "info", "warn", "error", "fatal")


@dataclass(frozen=True, slots=True)
class Settings:
    """Names as in the file with `-` for `_`. `origin` tells where non-default values came from."""

    data_root: str = "/var/lib/longshore"
    exec_root: str = "/run/longshore"
    pidfile: str = ""  # empty: longshored.pid in the exec root
    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    group: str = ""  # empty: `longshore`, else `docker`, else root
    bridge: str = "longshore0"
    bip: str = ""
    mtu: int = 0
    log_level: str = "info"
    debug: bool = False
    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    registry_config_path: str = "/etc/longshore/certs.d:/etc/docker/certs.d"
    max_concurrent_downloads: int = 3
    max_download_attempts: int = 5
    labels: tuple[str, ...] = ()
    experimental: bool = False
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    exec_opts: tuple[str, ...] = ()
    log_driver: str = "json-file"
    log_opts: Mapping[str, str] = field(default_factory=dict[str, str])
    log_budget: str = "10%"
    userns_remap: str = ""
    userns_range: str = ""
    cdi_spec_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    live_restore: bool = True  # there is no other mode; accepted for daemon.json files that say so
    config_file: str = ""
    origin: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def pid_path(self) -> Path:
        return Path(self.pidfile or f"{self.exec_root}/longshored.pid")

    @property
    def level(self) -> str:
        return "debug" if self.debug else self.log_level


@dataclass(frozen=True, slots=True)
class _Option:
    key: str  # in the file
    flags: tuple[str, ...]
    kind: type  # str, int, bool, tuple for a list, or dict for names and values
    help: str

    @property
    def attribute(self) -> str:
        return self.key.replace("-", "_")


OPTIONS = (
    _Option("data-root", ("--data-root",), str, "where images, volumes and the state database are kept"),
    _Option("exec-root", ("--exec-root",), str, "where sockets of running containers are kept"),
    _Option("pidfile", ("-p", "--pidfile"), str, "file that holds the daemon's process id"),
    _Option(
        "hosts", ("-H", "--host"), tuple, "socket to listen on: unix://, tcp:// (mutual TLS only) or fd://"
    ),
    _Option("group", ("-G", "--group"), str, "group that owns the unix socket"),
    _Option("bridge", ("-b", "--bridge"), str, "name of the default network's bridge"),
    _Option("bip", ("--bip",), str, "address and prefix of the bridge, 172.30.0.1/16"),
    _Option("mtu", ("--mtu",), int, "MTU of the default network"),
    _Option("log-level", ("-l", "--log-level"), str, f"one of {', '.join(LEVELS)}"),
    _Option("debug", ("-D", "--debug"), bool, "same as --log-level debug"),
    _Option("tls", ("--tls",), bool, "implied by --tlsverify"),
    _Option("tlsverify", ("--tlsverify",), bool, "ask every client for a certificate"),
    _Option("tlscacert", ("--tlscacert",), str, "authority that signed the clients' certificates"),
    _Option("tlscert", ("--tlscert",), str, "certificate of this server"),
    _Option("tlskey", ("--tlskey",), str, "key of this server"),
    _Option("insecure-registries", ("--insecure-registry",), tuple, "registry spoken to by plain HTTP"),
    _Option("registry-mirrors", ("--registry-mirror",), tuple, "registry asked first for docker.io images"),
    _Option(
        "registry-config-path",
        ("--registry-config-path",),
        str,
        "folders with a folder per registry, hosts.toml or certificates in it, separated by colons",
    ),
    _Option(
        "max-concurrent-downloads",
        ("--max-concurrent-downloads",),
        int,
        "layers fetched at once by each pull",
    ),
    _Option(
        "max-download-attempts",
        ("--max-download-attempts",),
        int,
        "times that a download is tried before the pull fails",
    ),
    _Option("labels", ("--label",), tuple, "key=value shown by info"),
    _Option("experimental", ("--experimental",), bool, "say so to clients, some of which then offer more"),
    _Option("dns", ("--dns",), tuple, "name server for containers"),
    _Option("dns-search", ("--dns-search",), tuple, "search domain for containers"),
    _Option(
        "exec-opts", ("--exec-opt",), tuple, "native.cgroupdriver=systemd or =cgroupfs (default: what fits)"
    ),
    _Option("log-driver", ("--log-driver",), str, "log driver of containers that name none"),
    _Option("log-opts", ("--log-opt",), dict, "option of that driver, name=value"),
    _Option(
        "log-budget",
        ("--log-budget",),
        str,
        "what the log files of all containers may take together: 4g, 10%% of their file system (at most 4 GB), or 0",
    ),
    _Option(
        "userns-remap", ("--userns-remap",), str, "user namespaces by default: auto, default or USER[:GROUP]"
    ),
    _Option("userns-range", ("--userns-range",), str, "ids of the host for user namespaces, FIRST:LENGTH"),
    _Option("cdi-spec-dirs", ("--cdi-spec-dir",), tuple, "folder with CDI files; a later one wins"),
    _Option("live-restore", ("--live-restore",), bool, "always on"),
)
RELOADABLE = (
    "debug",
    "log_level",
    "labels",
    "insecure_registries",
    "registry_mirrors",
    "registry_config_path",
    "max_concurrent_downloads",
    "max_download_attempts",
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(message, hint="see longshored --help")


def _parser() -> _Parser:
    parser = _Parser(
        prog="longshored",
        description="The container engine's daemon.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for option in OPTIONS:
        if option.kind is bool:
            parser.add_argument(
                *option.flags,
                dest=option.attribute,
                nargs="?",
                const="true",
                metavar="true|false",
                help=option.help,
            )
        elif option.kind in (tuple, dict):
            parser.add_argument(*option.flags, dest=option.attribute, action="append", help=option.help)
        else:
            parser.add_argument(*option.flags, dest=option.attribute, type=option.kind, help=option.help)
    parser.add_argument(
        "--config-file", default=None, help=f"settings as JSON, {DEFAULT_CONFIG} if it exists"
    )
    parser.add_argument("-v", "--version", action="version", version=f"Longshore version {__version__}")
    return parser


def parse_settings(arguments: Sequence[str]) -> Settings:
    """Flags and file together. Raises InvalidArgument naming the flag or key; `--help` ends the process."""
    given = vars(_parser().parse_args(_separate_booleans(arguments)))
    named = cast("str | None", given.pop("config_file"))
    flags = {
        option.attribute: _flag_value(option, given[option.attribute])
        for option in OPTIONS
        if option.attribute in given
    }
    path = named or (DEFAULT_CONFIG if Path(DEFAULT_CONFIG).is_file() else "")
    from_file = read_config(path) if path else {}
    if both := sorted(flags.keys() & from_file.keys()):
        told = "; ".join(
            f"{name.replace('_', '-')} (flag: {flags[name]}, file: {from_file[name]})" for name in both
        )
        raise InvalidArgument(
            f"given both as a flag and in {path}", detail=told, hint="remove one of the two"
        )
    origin = dict.fromkeys(flags, "flag") | dict.fromkeys(from_file, path)
    return check(Settings(**flags, **from_file, config_file=path, origin=origin))


def _separate_booleans(arguments: Sequence[str]) -> list[str]:
    """Go's flags take a boolean's value only as --flag=value; argparse would also eat the next word."""
    flags = {flag: option.flags[-1] for option in OPTIONS if option.kind is bool for flag in option.flags}
    return [f"{flags[word]}=true" if word in flags else word for word in arguments]


def _flag_value(option: _Option, value: Any) -> Any:
    if option.kind is tuple:
        return tuple(value)
    if option.kind is dict:
        pairs = [str(word).partition("=") for word in value]
        if bad := [name for name, separator, _ in pairs if not (name and separator)]:
            raise InvalidArgument(
                f"invalid value of {option.flags[-1]}", detail=f"{bad[0]!r} is not name=value"
            )
        return {name: text for name, _, text in pairs}
    if option.kind is bool:
        if str(value).lower() not in ("true", "false", "1", "0", "t", "f"):
            raise InvalidArgument(
                f"invalid value of {option.flags[-1]}", detail=f"{value!r} is not true or false"
            )
        return str(value).lower() in ("true", "1", "t")
    return value


def read_config(path: str) -> dict[str, Any]:
    """The settings of a daemon.json by attribute name. Raises InvalidArgument naming the bad key."""
    try:
        document: Any = json.loads(Path(path).read_bytes() or b"{}")
    except OSError as cause:
        raise InvalidArgument(f"cannot read the config file {path}", detail=cause.strerror or "") from cause
    except ValueError as cause:
        raise InvalidArgument(f"the config file {path} is not JSON", detail=str(cause)) from cause
    if not isinstance(document, dict):
        raise InvalidArgument(f"the config file {path} does not hold a JSON object")
    values: dict[str, Any] = {}
    options = {option.key: option for option in OPTIONS}
    for key, value in cast("dict[str, Any]", document).items():
        option = options.get(key)
        if option is None:
            raise InvalidArgument(
                f"unknown key {key!r} in {path}", hint=f"known: {', '.join(sorted(options))}"
            )
        values[option.attribute] = _file_value(option, value, path)
    return values


def _file_value(option: _Option, value: Any, path: str) -> Any:
    if option.kind is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in cast("list[Any]", value)):
            return tuple(cast("list[str]", value))
        raise InvalidArgument(f"key {option.key!r} in {path} wants a list of strings")
    if option.kind is dict:
        if isinstance(value, dict) and all(
            isinstance(text, str) for text in cast("dict[str, Any]", value).values()
        ):
            return cast("dict[str, str]", value)
        raise InvalidArgument(f"key {option.key!r} in {path} wants names with strings")
    if type(value) is not option.kind:
        names = {str: "a string", int: "a number", bool: "true or false"}
        raise InvalidArgument(f"key {option.key!r} in {path} wants {names[option.kind]}")
    return value


def check(settings: Settings) -> Settings:
    """Refuse what cannot work before anything is touched; returns the settings with hosts written out."""
    if settings.log_level not in LEVELS:
        raise InvalidArgument(f"unknown log level {settings.log_level!r}", hint=f"one of {', '.join(LEVELS)}")
    parse_budget(settings.log_budget, 0)
    for label in settings.labels:
        if "=" not in label:
            raise InvalidArgument(f"bad label {label!r}", hint="write key=value")
    for key, least in (("max-concurrent-downloads", 1), ("max-download-attempts", 1)):
        if getattr(settings, key.replace("-", "_")) < least:
            raise InvalidArgument(f"invalid value of {key}", detail=f"at least {least} is wanted")
    for mirror in settings.registry_mirrors:
        parse_mirror(mirror, settings.insecure_registries)
    parse_cgroup_driver(settings.exec_opts)
    if not settings.hosts:
        raise InvalidArgument("no host to listen on", hint=f"for example -H {DEFAULT_HOST}")
    hosts = tuple(normal_host(host) for host in settings.hosts)
    if any(host.startswith("tcp://") for host in hosts):
        _check_tls(settings)
    return replace(
        settings,
        hosts=hosts,
        data_root=str(Path(settings.data_root).absolute()),
        exec_root=str(Path(settings.exec_root).absolute()),
    )


def parse_cgroup_driver(options: Sequence[str]) -> str:
    """systemd or cgroupfs, "" when none is asked for. Raises InvalidArgument for unknown options."""
    driver = ""
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key.strip().lower() != "native.cgroupdriver":
            raise InvalidArgument(
                f"unknown exec option {option!r}", hint="native.cgroupdriver=systemd or =cgroupfs"
            )
        driver = value.strip()
        if driver not in CGROUP_DRIVERS:
            raise InvalidArgument(
                f"native.cgroupdriver option {driver} not supported",
                hint=f"one of {', '.join(CGROUP_DRIVERS)}",
            )
    return driver


def _check_tls(settings: Settings) -> None:
    """Whoever reaches the socket is root on this machine, so TCP without client certificates is refused."""
    hint = "give --tlsverify --tlscacert --tlscert --tlskey, or reach the unix socket through ssh"
    if not settings.tlsverify:
        raise InvalidArgument("refusing to listen on TCP without client certificates", hint=hint)
    for name in ("tlscacert", "tlscert", "tlskey"):
        path = cast(str, getattr(settings, name))
        if not path:
            raise InvalidArgument(f"--tlsverify without --{name}", hint=hint)
        if not Path(path).is_file():
            raise InvalidArgument(f"the file of --{name} does not exist", detail=path)


def normal_host(text: str) -> str:
    """unix://<absolute path>, tcp://<address>:<port> or fd://…. Raises InvalidArgument."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = ("unix", text) if text.startswith("/") else ("tcp", text)
    if scheme == "unix":
        return f"unix://{Path(rest).absolute()}" if rest else DEFAULT_HOST
    if scheme == "fd":
        return f"fd://{rest}"
    if scheme != "tcp":
        raise InvalidArgument(f"invalid bind address {text!r}", hint="use unix://, tcp:// or fd://")
    try:
        parts = urlsplit(f"//{rest}")
        address, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError as cause:
        raise InvalidArgument(f"invalid bind address {text!r}", detail=str(cause)) from cause
    if parts.path:
        raise InvalidArgument(f"invalid bind address {text!r}", detail="a TCP address has no path")
    address = f"[{address}]" if ":" in address else address
    return f"tcp://{address}:{TLS_PORT if port is None else port}"


def reloaded(old: Settings) -> tuple[Settings, list[str]]:
    """Read the file again: (settings with what may change at run time, names of other keys that differ)."""
    if not old.config_file:
        return old, []
    values = read_config(old.config_file)
    defaults: dict[str, Any] = {each.name: each.default for each in fields(Settings)} | {"log_opts": {}}
    changed: dict[str, Any] = {}
    stuck: list[str] = []
    for option in OPTIONS:
        name = option.attribute
        if old.origin.get(name) == "flag":
            continue
        new = values.get(name, defaults[name])
        if name == "hosts":
            new = tuple(normal_host(host) for host in new)
        if new == getattr(old, name):
            continue
        if name in RELOADABLE:
            changed[name] = new
        else:
            stuck.append(option.key)
    return check(replace(old, **changed)), stuck
