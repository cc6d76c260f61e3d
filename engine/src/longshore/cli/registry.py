"""`longshore registry …`: a registry as a process of its own (serve), or inside the daemon (start, stop, ls)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from longshore.cli.client import quote
from longshore.cli.context import client, each, format_option
from longshore.cli.flags import command, flag, many, one, several, text
from longshore.cli.output import emit, show
from longshore.errors import InvalidArgument
from longshore.oci.units import human_size

_COLUMNS = {
    "Name": "NAME",
    "Address": "ADDRESS",
    "Status": "STATUS",
    "Repositories": "REPOSITORIES",
    "Size": "SIZE",
}

# Flags and the keys of the configuration that they set.
_KEYS = {
    "addr": "http.addr",
    "root": "storage.filesystem.rootdirectory",
    "tls_cert": "http.tls.certificate",
    "tls_key": "http.tls.key",
    "htpasswd": "auth.htpasswd.path",
    "proxy": "proxy.remoteurl",
    "log_level": "log.level",
    "debug_addr": "http.debug.addr",
}
_FILES = ("root", "tls_cert", "tls_key", "htpasswd")

_COMMON = (
    text("-c", "--config", help="Configuration, YAML or TOML; names as distribution's.", metavar="file"),
    text("--addr", help="Address to listen on (default 127.0.0.1:5000).", metavar="host:port"),
    text("--tls-cert", help="Certificate of the server.", metavar="file"),
    text("--tls-key", help="Its key.", metavar="file"),
    many(
        "--client-ca", help="Authority of client certificates; with it clients must show one.", metavar="file"
    ),
    text("--htpasswd", help="Users and bcrypt hashes, as htpasswd -B makes them.", metavar="file"),
    text("--proxy", help="Be a pull-through cache of the registry at this address.", metavar="url"),
    flag("--read-only", help="Take no pushes and no deletions."),
    flag("--allow-plain-http", help="Serve HTTP without TLS on addresses that others reach."),
    text("--debug-addr", help="Serve /debug/health and /metrics there.", metavar="host:port"),
    many("--set", "settings", help="Any other key of the configuration.", metavar="key=value"),
)


def _common(callback: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_COMMON):
        callback = option(callback)
    return callback


@command("serve")
@_common
@text("--root", help="Folder of the data (default /var/lib/longshore/registry).", metavar="folder")
@text("--log-level", help="debug, info, warn or error.")
def serve_command(config: str, **flags: Any) -> None:
    """Serve a registry: the OCI distribution specification 1.1, pull-through caches, garbage collection."""
    words = list(serve_words(**flags))
    if config:
        words = ["--config", config, *words]
    _become("longshore.daemon.registry", words)


def serve_words(
    client_ca: Sequence[str], read_only: bool, allow_plain_http: bool, settings: Sequence[str], **flags: str
) -> Iterator[str]:
    """The flags as keys of the configuration, with whole paths. Pure but for the working folder."""
    for name, key in _KEYS.items():
        if value := flags.get(name):
            yield f"{key}={_whole(value) if name in _FILES else value}"
    if client_ca:
        yield f"http.tls.clientcas=[{', '.join(map(_whole, client_ca))}]"
    if read_only:
        yield "storage.maintenance.readonly.enabled=true"
    if allow_plain_http:
        yield "http.plain=true"
    if flags.get("debug_addr"):
        yield "http.debug.prometheus.enabled=true"
    for word in settings:
        if "=" not in word:
            raise click.UsageError(f"--set {word!r} is not key=value")
        yield word


def _whole(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100  pathlib is slow to import


def _become(module: str, words: Sequence[str]) -> None:
    """Turn this process into a module of the server side, which the command line does not import."""
    import longshore

    package = os.path.dirname(os.path.dirname(longshore.__file__))  # noqa: PTH120  pathlib is slow to import
    start = f"import sys; sys.path.insert(0, sys.argv.pop(1)); from {module} import main; main()"
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-I", "-c", start, package, *words])


@command("start")
@_common
@one("name", "[NAME]", required=False)
def start_command(name: str, config: str, **flags: Any) -> None:
    """Start a registry inside the daemon, under its data root; it comes back when the daemon starts again."""
    body: dict[str, Any] = {"name": name or "default", "settings": list(serve_words(**flags))}
    if config:
        body["config"] = _document(config)
    answer = client().post("/longshore/v1/registries", body)
    for line in _addresses(answer):
        emit(line)


def _document(path: str) -> dict[str, Any]:
    """The configuration file as the daemon wants it. Raises InvalidArgument."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            source = file.read()
        if path.endswith(".toml"):
            import tomllib

            return tomllib.loads(source)
        value: Any = yaml.safe_load(source)
    except OSError as cause:
        raise InvalidArgument(f"cannot read {path}", detail=cause.strerror or "") from cause
    except (yaml.YAMLError, ValueError) as cause:
        raise InvalidArgument(f"{path} is neither YAML nor TOML", detail=str(cause)) from cause
    if not isinstance(value, dict):
        raise InvalidArgument(f"{path} holds no keys")
    return value  # pyright: ignore[reportUnknownVariableType]


@command("stop")
@several("names", "[NAME...]", required=False)
def stop_command(names: tuple[str, ...]) -> None:
    """Stop registries inside the daemon; their data stays."""
    each(
        names or ("default",),
        lambda name: client().request("DELETE", f"/longshore/v1/registries/{quote(name)}"),
    )


@command("ls")
@format_option
def ls_command(format: str) -> None:
    """List the registries inside the daemon."""
    rows = [
        {
            "Name": found["name"],
            "Address": ", ".join(_addresses(found)),
            "Status": f"{found['status']}: {found['error']}" if found["error"] else found["status"],
            "Repositories": str(found.get("repositories", "")),
            "Size": human_size(found["bytes"]) if "bytes" in found else "",
        }
        for found in client().get("/longshore/v1/registries")
    ]
    show(rows, _COLUMNS, format=format)


def _addresses(found: dict[str, Any]) -> list[str]:
    scheme = "https" if found.get("tls") else "http"
    return [f"{scheme}://{address}" for address in found["addresses"]]
