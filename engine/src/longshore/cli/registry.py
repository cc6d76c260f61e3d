"""`longshore registry serve`: a distribution registry, as a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from longshore.cli.flags import command, flag, many, text

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


@command("serve")
@text("-c", "--config", help="Configuration, YAML or TOML; names as distribution's.", metavar="file")
@text("--addr", help="Address to listen on (default 127.0.0.1:5000).", metavar="host:port")
@text("--root", help="Folder of the data (default /var/lib/longshore/registry).", metavar="folder")
@text("--tls-cert", help="Certificate of the server.", metavar="file")
@text("--tls-key", help="Its key.", metavar="file")
@many("--client-ca", help="Authority of client certificates; with it clients must show one.", metavar="file")
@text("--htpasswd", help="Users and bcrypt hashes, as htpasswd -B makes them.", metavar="file")
@text("--proxy", help="Be a pull-through cache of the registry at this address.", metavar="url")
@flag("--read-only", help="Take no pushes and no deletions.")
@flag("--allow-plain-http", help="Serve HTTP without TLS on addresses that others reach.")
@text("--debug-addr", help="Serve /debug/health and /metrics there.", metavar="host:port")
@text("--log-level", help="debug, info, warn or error.")
@many("--set", "settings", help="Any other key of the configuration.", metavar="key=value")
def serve_command(config: str, **flags: Any) -> None:
    """Serve a registry: the OCI distribution specification 1.1, pull-through caches, garbage collection."""
    words = list(serve_words(**flags))
    if config:
        words = ["--config", config, *words]
    become("longshore.daemon.registry", words)


def serve_words(
    client_ca: Sequence[str], read_only: bool, allow_plain_http: bool, settings: Sequence[str], **flags: str
) -> Iterator[str]:
    """The flags as keys of the configuration. Pure."""
    for name, key in _KEYS.items():
        if flags[name]:
            yield f"{key}={flags[name]}"
    if client_ca:
        yield f"http.tls.clientcas=[{', '.join(client_ca)}]"
    if read_only:
        yield "storage.maintenance.readonly.enabled=true"
    if allow_plain_http:
        yield "http.plain=true"
    if flags["debug_addr"]:
        yield "http.debug.prometheus.enabled=true"
    for word in settings:
        if "=" not in word:
            raise click.UsageError(f"--set {word!r} is not key=value")
        yield word


def become(module: str, words: Sequence[str]) -> None:
    """Turn this process into a module of the server side, which the command line does not import."""
    import longshore

    package = os.path.dirname(os.path.dirname(longshore.__file__))  # noqa: PTH120  pathlib is slow to import
    start = f"import sys; sys.path.insert(0, sys.argv.pop(1)); from {module} import main; main()"
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-I", "-c", start, package, *words])
