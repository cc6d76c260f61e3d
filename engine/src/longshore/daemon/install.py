"""Puts the engine on a host: the only installer, for hands, the role `engine` and pymachine alike.

Runs as `__main__` of the bundle, an executable zip (`python3 longshore-….pyz install`), and as
`/opt/longshore/current/bin/longshore-setup` afterwards. Standard library only, Python 3.11 or newer, no
package index, with systemd or without. Every command may be run twice; upgrading and rolling back are the
same step (switch one link, restart the daemon) and never touch a running container.

    /opt/longshore/<release>/lib    the engine and its dependencies, unpacked wheels
    /opt/longshore/current          link to the release in use; `previous` to the one before
    /etc/longshore/daemon.json      settings; tls/ beside it
"""

import argparse
import hashlib
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

PREFIX = Path("/opt/longshore")
ETC = Path("/etc/longshore")
LINKS = Path("/usr/local/bin")
UNIT = Path("/etc/systemd/system/longshored.service")
SYSV = Path("/etc/init.d/longshored")
SYSCTL = Path("/etc/sysctl.d/60-longshore.conf")
PIDFILE = Path("/run/longshored.pid")
LOG = Path("/var/log/longshored.log")
DEFAULT_SOCKET = "/run/longshore/longshore.sock"
TLS_FILES = ("ca.pem", "server-cert.pem", "server-key.pem")
COMMANDS = {
    "longshore": "longshore.cli.main",
    "longshored": "longshore.daemon.main",
    "longshore-oci": "longshore.runtime.sealed",
    "longshore-setup": "longshore.daemon.install",
}
NOT_RUNNING = 3  # LSB: the exit code of an init script's `status`
READY_SECONDS = 180  # a virtual machine without KVM is 12 times slower

UNIT_TEXT = """\
[Unit]
Description=Longshore container engine
After=network-online.target nss-lookup.target
Wants=network-online.target

[Service]
Type=notify
ExecStart=/opt/longshore/current/bin/longshored
ExecReload=/bin/kill -s HUP $MAINPID
# The monitors of running containers live in this unit's cgroup and outlive the daemon.
KillMode=process
Delegate=yes
Restart=always
RestartSec=1
TimeoutStartSec=180
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
"""

SYSV_TEXT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          longshored
# Required-Start:    $local_fs $network $remote_fs
# Required-Stop:     $local_fs $network $remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Longshore container engine
### END INIT INFO
# Stopping the daemon leaves the containers running; they are found again at the next start.
exec /opt/longshore/current/bin/longshore-setup service "$1"
"""

SYSCTL_TEXT = """\
# Written by the Longshore installer.
net.ipv4.ip_forward = 1
fs.inotify.max_user_instances = 8192
"""


class SetupError(Exception):
    """One line for the operator: what failed, and what to do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself (`manifest.json`)."""

    version: str
    release: str  # version and a digest of the contents, the name of the folder under /opt/longshore
    arch: str
    pythons: tuple[str, ...]


@dataclass(slots=True)
class Outcome:
    """What `install` did; printed as one JSON line."""

    changed: bool = False
    version: str = ""
    release: str = ""
    previous: str = ""
    service: str = ""
    changes: list[str] = field(default_factory=list[str])

    def note(self, change: str) -> None:
        self.changed = True
        self.changes.append(change)


# The bundle


def bundle_path() -> Path | None:
    """The zip this program runs from, or None when it runs from an installed release."""
    candidate = Path(sys.argv[0]).resolve()
    return candidate if candidate.is_file() and zipfile.is_zipfile(candidate) else None


def read_manifest(bundle: zipfile.ZipFile) -> Manifest:
    """Raises SetupError when the zip is not a bundle or not for this machine."""
    try:
        values = cast(dict[str, Any], json.loads(bundle.read("manifest.json")))
    except KeyError as cause:
        raise SetupError("this file is not a Longshore bundle: manifest.json is missing") from cause
    manifest = Manifest(values["version"], values["release"], values["arch"], tuple(values["pythons"]))
    if manifest.arch != platform.machine():
        raise SetupError(f"the bundle is for {manifest.arch}, this machine is {platform.machine()}")
    if python_tag() not in manifest.pythons:
        raise SetupError(
            f"the bundle holds no modules for Python {platform.python_version()}; "
            f"run it with one of: {', '.join(manifest.pythons)}"
        )
    return manifest


def python_tag() -> str:
    return f"cp{sys.version_info.major}{sys.version_info.minor}"


def unpack(bundle: zipfile.ZipFile, manifest: Manifest) -> Path:
    """Unpack the wheels that fit this interpreter; the folder appears whole or not at all."""
    release = PREFIX / manifest.release
    if (release / "manifest.json").exists():
        return release
    PREFIX.mkdir(parents=True, exist_ok=True, mode=0o755)
    for leftover in PREFIX.glob(".unpack-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=".unpack-", dir=PREFIX))
    try:
        scratch.chmod(0o755)
        library = scratch / "lib"
        library.mkdir()
        wheels = [
            name
            for name in bundle.namelist()
            if name.startswith(("wheels/any/", f"wheels/{python_tag()}/")) and name.endswith(".whl")
        ]
        for name in wheels:
            with bundle.open(name) as stream, zipfile.ZipFile(stream) as wheel:
                wheel.extractall(library)
        write_commands(scratch / "bin", release)
        (scratch / "manifest.json").write_bytes(bundle.read("manifest.json"))
        if release.exists():  # left by an interrupted removal: it has no manifest
            shutil.rmtree(release)
        scratch.rename(release)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return release


def write_commands(folder: Path, release: Path) -> None:
    """Start scripts that name their own release, so that a running daemon never mixes two of them."""
    folder.mkdir()
    interpreter = Path(sys.executable).resolve()
    for name, module in COMMANDS.items():
        script = folder / name
        script.write_text(
            f"#!{interpreter} -I\n"
            "import sys\n"
            f"sys.path.insert(0, {str(release / 'lib')!r})\n"
            f"from {module} import main\n"
            "sys.exit(main())\n"
        )
        script.chmod(0o755)


# Switching


def target_of(link: Path) -> str:
    return link.readlink().name if link.is_symlink() else ""


def switch(link: Path, release: str) -> None:
    """Point `link` at a release in one rename(2)."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(release)
    fresh.replace(link)


def write_if_changed(path: Path, data: bytes, mode: int) -> bool:
    """True when the file was written; the old contents stay until the new ones are whole."""
    if path.exists() and path.read_bytes() == data and path.stat().st_mode & 0o7777 == mode:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)
    return True


# The service


class Systemd:
    name = "systemd"

    def write(self) -> bool:
        changed = write_if_changed(UNIT, UNIT_TEXT.encode(), 0o644)
        if changed:
            run("systemctl", "daemon-reload")
        if subprocess.run(["systemctl", "is-enabled", "-q", UNIT.name], check=False).returncode != 0:
            run("systemctl", "enable", "-q", UNIT.name)
            changed = True
        return changed

    def running(self) -> bool:
        return subprocess.run(["systemctl", "is-active", "-q", UNIT.name], check=False).returncode == 0

    def start(self) -> None:
        run("systemctl", "start", UNIT.name)

    def stop(self) -> None:
        run("systemctl", "stop", UNIT.name)

    def restart(self) -> None:
        run("systemctl", "restart", UNIT.name)

    def remove(self) -> None:
        subprocess.run(["systemctl", "disable", "-q", "--now", UNIT.name], check=False)
        UNIT.unlink(missing_ok=True)
        run("systemctl", "daemon-reload")

    def last_words(self) -> str:
        found = subprocess.run(
            ["journalctl", "-u", UNIT.name, "-n", "5", "-o", "cat", "--no-pager"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        return found.stdout.strip()


class SysV:
    """Hosts without systemd: an LSB script for the boot, the daemon started from here."""

    name = "sysv"

    def write(self) -> bool:
        changed = write_if_changed(SYSV, SYSV_TEXT.encode(), 0o755)
        if changed and shutil.which("update-rc.d"):
            subprocess.run(["update-rc.d", SYSV.name, "defaults"], check=False, capture_output=True)
        return changed

    def pid(self) -> int:
        """The daemon's process id, 0 when it does not run. A recycled id is not mistaken for it."""
        try:
            pid = int(PIDFILE.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:3]  # python, its flag, the script
        except (OSError, ValueError):
            return 0
        return pid if any(word.rpartition(b"/")[2] == b"longshored" for word in words) else 0

    def running(self) -> bool:
        return self.pid() != 0

    def start(self) -> None:
        if self.running():
            return
        with LOG.open("ab") as log:
            subprocess.Popen(
                [str(PREFIX / "current/bin/longshored"), "--pidfile", str(PIDFILE)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            )  # fmt: skip

    def stop(self) -> None:
        pid = self.pid()
        if not pid:
            return
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: self.pid() != pid, 30, f"longshored (pid {pid}) does not end; see {LOG}")

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        self.stop()
        SYSV.unlink(missing_ok=True)
        if shutil.which("update-rc.d"):
            subprocess.run(["update-rc.d", SYSV.name, "remove"], check=False, capture_output=True)

    def last_words(self) -> str:
        return "\n".join(LOG.read_text(errors="replace").splitlines()[-5:]) if LOG.exists() else ""


def service() -> Systemd | SysV:
    return Systemd() if Path("/run/systemd/system").is_dir() else SysV()


def run(*argv: str) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupError(f"{' '.join(argv)} failed: {(done.stderr or done.stdout).strip()}")


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SetupError(otherwise)
        time.sleep(0.05)


# Talking to the daemon


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def daemon_socket() -> str:
    """The first unix socket of the settings, else the default."""
    try:
        settings = cast(dict[str, Any], json.loads((ETC / "daemon.json").read_text()))
    except (OSError, ValueError):
        return DEFAULT_SOCKET
    unix = [host for host in settings.get("hosts", []) if host.startswith("unix://")]
    return unix[0].removeprefix("unix://") if unix else DEFAULT_SOCKET


def ask(method: str, path: str) -> Any:
    """One request to the daemon; raises OSError when it does not answer."""
    connection = _UnixConnection(daemon_socket())
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status >= 400:
            raise SetupError(f"the daemon answers {answer.status} to {method} {path}: {body.decode()}")
        return json.loads(body) if body and body[:1] in b"[{" else body.decode()
    finally:
        connection.close()


def answers(version: str) -> bool:
    """True once the daemon of that version serves its socket."""
    try:
        return bool(ask("GET", "/version")["Version"] == version)
    except (OSError, SetupError, http.client.HTTPException):
        return False


# Commands


def install(options: argparse.Namespace) -> Outcome:
    """Install or upgrade to the bundle's release; a daemon that does not answer is replaced by the old one."""
    archive = bundle_path()
    if archive is None:
        raise SetupError("'install' works from a bundle: python3 longshore-….pyz install")
    with zipfile.ZipFile(archive) as bundle:
        manifest = read_manifest(bundle)
        outcome = Outcome(version=manifest.version, release=manifest.release, service=service().name)
        current = target_of(PREFIX / "current")
        outcome.previous = target_of(PREFIX / "previous") if current == manifest.release else current
        if options.check:
            return preview(options, manifest.release, outcome)
        unpack(bundle, manifest)
    configuration_changed = write_configuration(options, outcome)
    activate(manifest.release, manifest.version, outcome, configuration_changed, start=not options.no_start)
    prune_releases()
    return outcome


def configure(options: argparse.Namespace) -> Outcome:
    """Settings and certificates for the release in use, whichever that is: a rollback stays one."""
    current = target_of(PREFIX / "current")
    if not current:
        raise SetupError("no release is installed; 'configure' changes the settings of one that is")
    version = installed_manifest(current).version
    outcome = Outcome(
        version=version, release=current, previous=target_of(PREFIX / "previous"), service=service().name
    )
    if options.check:
        return preview(options, current, outcome)
    activate(current, version, outcome, write_configuration(options, outcome), start=not options.no_start)
    return outcome


def preview(options: argparse.Namespace, release: str, outcome: Outcome) -> Outcome:
    """What `install` or `configure` would change; touches nothing."""
    current = target_of(PREFIX / "current")
    if current != release:
        outcome.note(f"release {current or 'none'} -> {release}")
    for path, data in wanted_configuration(options).items():
        if not path.exists() or path.read_bytes() != data:
            outcome.note(f"write {path}")
    if not options.no_start:
        if not service().running():
            outcome.note("start longshored")
        elif outcome.changed:
            outcome.note("restart longshored")
    return outcome


def wanted_configuration(options: argparse.Namespace) -> dict[Path, bytes]:
    """Files below /etc and their contents. Raises SetupError for a config that is not a JSON object."""
    files: dict[Path, bytes] = {}
    if options.config:
        data = Path(options.config).read_bytes()
        try:
            if not isinstance(json.loads(data), dict):
                raise ValueError("not a JSON object")
        except ValueError as cause:
            raise SetupError(
                f"{options.config}: {cause}; daemon.json is a JSON object of settings"
            ) from cause
        files[ETC / "daemon.json"] = data
    if options.tls_dir:
        for name in TLS_FILES:
            source = Path(options.tls_dir) / name
            if not source.exists():
                raise SetupError(f"{source} is missing; --tls-dir needs {', '.join(TLS_FILES)}")
            files[ETC / "tls" / name] = source.read_bytes()
    return files


def write_configuration(options: argparse.Namespace, outcome: Outcome) -> bool:
    """Write settings, certificates and sysctl; returns True when the daemon must be restarted for it."""
    changed = False
    for path, data in wanted_configuration(options).items():
        if write_if_changed(path, data, 0o600):
            outcome.note(f"write {path}")
            changed = True
    if write_if_changed(SYSCTL, SYSCTL_TEXT.encode(), 0o644):
        outcome.note(f"write {SYSCTL}")
        apply_sysctl()
    return changed


def apply_sysctl() -> None:
    for line in SYSCTL_TEXT.splitlines():
        name, separator, value = line.partition(" = ")
        if separator:
            try:
                (Path("/proc/sys") / name.replace(".", "/")).write_text(value)
            except OSError as cause:
                # In a container /proc/sys may be read-only; the daemon's doctor tells what is missing.
                print(f"longshore-setup: cannot set {name}: {cause.strerror}", file=sys.stderr)


def activate(release: str, version: str, outcome: Outcome, changed: bool, *, start: bool) -> None:
    """Switch to `release`, (re)start what has to be, and go back if it does not answer."""
    manager = service()
    before = target_of(PREFIX / "current")
    if before != release:
        if before:
            switch(PREFIX / "previous", before)
        switch(PREFIX / "current", release)
        outcome.note(f"release {before or 'none'} -> {release}")
        changed = True
    link_commands()
    if manager.write():
        outcome.note(f"{manager.name} service")
    if not start:
        return
    try:
        if not manager.running():
            manager.start()
            outcome.note("start longshored")
        elif changed:
            manager.restart()
            outcome.note("restart longshored")
        await_daemon(version, manager)
    except SetupError as cause:
        words = manager.last_words()
        if before and before != release:
            switch(PREFIX / "current", before)
            manager.restart()
            raise SetupError(f"{cause}; went back to {before}. Its last words:\n{words}") from cause
        raise SetupError(f"{cause}. Its last words:\n{words}") from cause


def await_daemon(version: str, manager: Systemd | SysV) -> None:
    """Wait until that version answers; gives up early when the process has ended."""
    deadline = time.monotonic() + READY_SECONDS
    grace = time.monotonic() + 10  # the pid file appears only once Python has started
    while not answers(version):
        ended = time.monotonic() > grace and not manager.running()
        if ended or time.monotonic() > deadline:
            raise SetupError(f"longshored {version} does not answer on {daemon_socket()}")
        time.sleep(0.05)


def link_commands() -> None:
    LINKS.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        link, target = LINKS / name, PREFIX / "current/bin" / name
        if link.is_symlink() and link.readlink() == target:
            continue
        if link.exists() and not link.is_symlink():
            raise SetupError(f"{link} is in the way and not ours; move it and run again")
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def prune_releases() -> None:
    """Keep the current and the previous release; a daemon still running an older one has loaded its code."""
    keep = {target_of(PREFIX / "current"), target_of(PREFIX / "previous")}
    for folder in PREFIX.iterdir():
        if folder.is_dir() and not folder.is_symlink() and folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def rollback(options: argparse.Namespace) -> Outcome:
    """Go back to the release before; running it twice returns to where one was."""
    previous = target_of(PREFIX / "previous")
    if not previous or not (PREFIX / previous / "manifest.json").exists():
        raise SetupError("there is no previous release to go back to")
    version = installed_manifest(previous).version
    outcome = Outcome(
        version=version, release=previous, previous=target_of(PREFIX / "current"), service=service().name
    )
    activate(previous, version, outcome, False, start=not options.no_start)
    return outcome


def installed_manifest(release: str) -> Manifest:
    values = cast(dict[str, Any], json.loads((PREFIX / release / "manifest.json").read_text()))
    return Manifest(values["version"], values["release"], values["arch"], tuple(values["pythons"]))


def status(_: argparse.Namespace) -> dict[str, object]:
    """Releases on this host, the service, and whether the daemon answers."""
    current = target_of(PREFIX / "current")
    manager = service()
    configuration = {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [ETC / "daemon.json", *(ETC / "tls" / name for name in TLS_FILES)]
        if path.exists()
    }
    return {
        "installed": bool(current),
        "release": current,
        "version": installed_manifest(current).version if current else "",
        "previous": target_of(PREFIX / "previous"),
        "service": manager.name,
        "running": manager.running(),
        "configuration": configuration,
    }


def control(options: argparse.Namespace) -> Outcome | dict[str, object]:
    """start, stop, restart or status of the daemon on hosts without systemd (the LSB script calls it)."""
    manager, outcome = service(), Outcome(service=service().name)
    was_running = manager.running()
    match options.action:
        case "start":
            manager.start()
            await_daemon(installed_manifest(target_of(PREFIX / "current")).version, manager)
        case "stop":
            manager.stop()
        case "restart" | "force-reload":
            manager.restart()
            await_daemon(installed_manifest(target_of(PREFIX / "current")).version, manager)
        case _:
            return {"service": manager.name, "running": was_running}
    match options.action, was_running:
        case "start", False:
            outcome.note("start longshored")
        case "stop", True:
            outcome.note("stop longshored")
        case "restart" | "force-reload", _:
            outcome.note("restart longshored")
        case _:
            pass
    return outcome


def uninstall(options: argparse.Namespace) -> Outcome:
    """Remove the engine. Containers must be gone first, or `--purge` removes them and all data."""
    manager, outcome = service(), Outcome(service=service().name)
    if manager.running():
        running = cast(list[dict[str, Any]], ask("GET", "/containers/json?all=1"))
        if running and not options.purge:
            raise SetupError(f"{len(running)} containers exist; remove them or use --purge")
        for container in running:
            ask("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    manager.remove()
    for name in COMMANDS:
        if (LINKS / name).is_symlink():
            (LINKS / name).unlink()
    SYSCTL.unlink(missing_ok=True)
    if options.purge:
        settings: dict[str, Any] = {}
        if (ETC / "daemon.json").exists():
            settings = cast(dict[str, Any], json.loads((ETC / "daemon.json").read_text()))
        shutil.rmtree(settings.get("data-root", "/var/lib/longshore"), ignore_errors=True)
        shutil.rmtree(settings.get("exec-root", "/run/longshore"), ignore_errors=True)
        shutil.rmtree(ETC, ignore_errors=True)
        LOG.unlink(missing_ok=True)
    if PREFIX.exists():
        shutil.rmtree(PREFIX)
        outcome.note("removed the engine")
    return outcome


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="longshore-setup", description="Install the Longshore engine on this host."
    )
    top.add_argument("--json", action="store_true", help="print the outcome as one JSON line")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[argparse.Namespace], object], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        command.set_defaults(function=function)
        return command

    command = add("install", install, "install this bundle's release, or upgrade to it")
    add_settings(command)
    command = add("configure", configure, "change settings or certificates, not the release")
    add_settings(command)
    command = add("rollback", rollback, "go back to the previous release")
    command.add_argument("--no-start", action="store_true", help="do not restart the daemon")
    add("status", status, "show what is installed and whether it runs")
    command = add("service", control, "start, stop, restart or show the daemon")
    command.add_argument("action", choices=["start", "stop", "restart", "force-reload", "status"])
    command = add("uninstall", uninstall, "remove the engine from this host")
    command.add_argument("--purge", action="store_true", help="also remove all containers and all data")
    return top


def add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", help="settings for /etc/longshore/daemon.json")
    command.add_argument("--tls-dir", metavar="DIR", help=f"folder with {', '.join(TLS_FILES)}")
    command.add_argument("--no-start", action="store_true", help="do not start the daemon")
    command.add_argument("--check", action="store_true", help="only say what would change")


def main() -> NoReturn:
    options = parser().parse_args()
    try:
        if os.geteuid() != 0:
            raise SetupError("the installer needs root; run it with sudo")
        if sys.version_info < (3, 11):  # noqa: UP036  the bundle may be started with any Python
            raise SetupError(f"Python 3.11 or newer is needed, this is {platform.python_version()}")
        result = options.function(options)
    except (SetupError, OSError) as error:
        if options.json:
            print(json.dumps({"failed": True, "error": str(error)}))
        print(f"longshore-setup: {error}", file=sys.stderr)
        sys.exit(1)
    report(result, as_json=options.json)
    asked = options.command == "service" and options.action == "status"
    sys.exit(NOT_RUNNING if asked and not result["running"] else 0)


def report(result: object, *, as_json: bool) -> None:
    values = cast(
        dict[str, Any],
        {name: getattr(result, name) for name in Outcome.__slots__}
        if isinstance(result, Outcome)
        else result,
    )
    if as_json:
        print(json.dumps(values))
        return
    if values.keys() == {"service", "running"}:
        print(f"longshored is {'running' if values['running'] else 'not running'} ({values['service']})")
        return
    for name, value in values.items():
        if value not in ("", [], {}):
            text = ", ".join(map(str, cast(list[object], value))) if isinstance(value, list) else value
            print(f"{name}: {text}")


if __name__ == "__main__":
    main()
