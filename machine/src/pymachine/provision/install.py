"""Bringing bundle, settings and certificates to a host and running the bundle's installer there."""

import contextlib
import json
import shlex
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

from pymachine.certs import Pair
from pymachine.errors import ProvisionError
from pymachine.progress import Progress
from pymachine.provision.bundle import Bundle
from pymachine.provision.host import Host, choose_python, run_script
from pymachine.ssh import ParamikoTransport, Transport

_INSTALL_SECONDS = 600.0
INSTALLED = "/opt/longshore/current/bin/longshore-setup"  # the installer of the release in use


@dataclass(frozen=True, slots=True)
class Payload:
    """What a host gets. No bundle: the release that it has stays, only settings and certificates change."""

    bundle: Bundle | None
    settings: bytes
    authority: bytes
    server: Pair
    cache: str


@dataclass(frozen=True, slots=True)
class Installed:
    """What the installer reported."""

    changed: bool
    switched: bool  # to another release
    version: str
    release: str
    previous: str
    service: str
    uploaded: int  # bytes of the bundle that had to travel


def install(transport: ParamikoTransport, host: Host, payload: Payload, progress: Progress) -> Installed:
    """Install or update the engine; twice is fine and changes nothing. Raises ProvisionError or RemoteFailed."""
    where = str(transport.target)
    path, uploaded = "", 0
    if payload.bundle is None and transport.run(["test", "-x", INSTALLED], check=False).code == 0:
        # Not the bundle that it came from: somebody may have rolled back since.
        command = [INSTALLED, "configure"]
        progress.say("Configuring the engine")
    else:
        path, uploaded = _bring_bundle(transport, payload, progress)
        command = [choose_python(host, where).path, path, "install"]
        progress.say("Installing the engine")
    with _work_folder(transport) as folder:
        transport.put(payload.settings, f"{folder}/daemon.json", 0o600)
        for name, data in (
            ("ca.pem", payload.authority),
            ("server-cert.pem", payload.server.certificate),
            ("server-key.pem", payload.server.key),
        ):
            transport.put(data, f"{folder}/{name}", 0o600)
        result = transport.run(
            [*command, "--config", f"{folder}/daemon.json", "--tls-dir", folder, "--json"],
            check=False,
            timeout=_INSTALL_SECONDS,
        )
    report = _last_object(result.stdout)
    if result.code != 0 or report is None or report.get("failed"):
        words = str(report["error"]) if report and "error" in report else (result.stderr or result.stdout)
        raise ProvisionError(f"the installer failed on {where}", detail=words.strip()[-2000:])
    if path:
        _forget_other_bundles(transport, payload.cache, path)
    return Installed(
        changed=bool(report.get("changed")),
        switched=any(str(change).startswith("release ") for change in report.get("changes", [])),
        version=str(report.get("version", "")),
        release=str(report.get("release", "")),
        previous=str(report.get("previous", "")),
        service=str(report.get("service", "")),
        uploaded=uploaded,
    )


def remote_bundle(cache: str, bundle: Bundle) -> str:
    """Where the host keeps the bundle; the digest in the name tells versions of one name apart. Pure."""
    return str(PurePosixPath(cache) / f"{bundle.sha256[:16]}-{bundle.path.name}")


def _bring_bundle(transport: Transport, payload: Payload, progress: Progress) -> tuple[str, int]:
    """The bundle's path on the host, and how many bytes had to be sent."""
    bundle = payload.bundle
    if bundle is None:
        script = 'cd "$1" 2>/dev/null && ls -t -- *.pyz 2>/dev/null | head -n 1'
        name = run_script(transport, script + " || true", [payload.cache]).strip()
        if not name:
            raise ProvisionError(
                "there is no engine bundle, neither here nor on the machine",
                hint="run 'make bundle', or name one with --engine-bundle FILE or PYMACHINE_ENGINE_BUNDLE",
            )
        return str(PurePosixPath(payload.cache) / name), 0
    path = remote_bundle(payload.cache, bundle)
    have = transport.run(["sha256sum", "--", path], check=False).stdout.split()
    if have[:1] == [bundle.sha256]:
        progress.say(f"The bundle of {bundle.release} is there already")
        return path, 0
    progress.say(f"Sending the bundle of {bundle.release} ({bundle.size / 1e6:.1f} MB)")
    transport.run(["mkdir", "-p", "-m", "755", "--", payload.cache])
    transport.put(bundle.path, path, 0o644)
    return path, bundle.size


def _forget_other_bundles(transport: Transport, cache: str, keep: str) -> None:
    script = 'cd "$1" && for f in *.pyz; do [ "$f" = "$2" ] || rm -f -- "$f"; done'
    run_script(transport, script, [cache, PurePosixPath(keep).name])


@contextlib.contextmanager
def _work_folder(transport: Transport) -> Generator[str]:
    """A private folder on the host for the time of the installation: it holds the server's key."""
    folder = transport.run(["mktemp", "-d", "/tmp/pymachine.XXXXXXXX"]).stdout.strip()
    if not folder.startswith("/tmp/pymachine."):
        raise ProvisionError("the host's mktemp answers strangely", detail=shlex.quote(folder))
    try:
        yield folder
    finally:
        transport.run(["rm", "-rf", "--", folder], check=False)


def _last_object(output: str) -> dict[str, Any] | None:
    """The last line that is a JSON object; login scripts may print something before it."""
    for line in reversed(output.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return cast(dict[str, Any], value)
    return None
