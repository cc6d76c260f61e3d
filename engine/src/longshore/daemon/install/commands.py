"""What can be asked for: install, configure, rollback, status, service, uninstall."""

import argparse
import hashlib
import json
import shutil
import zipfile
from typing import Any, cast

from . import bundle, configuration, daemon, places, releases, services
from .outcome import Outcome, SetupError


def install(options: argparse.Namespace) -> Outcome:
    """Install or upgrade to the bundle's release; a daemon that does not answer is replaced by the old one."""
    archive = bundle.bundle_path()
    if archive is None:
        raise SetupError("'install' works from a bundle: python3 longshore-….pyz install")
    with zipfile.ZipFile(archive) as opened:
        manifest = bundle.read_manifest(opened)
        outcome = Outcome(version=manifest.version, release=manifest.release, service=services.service().name)
        current = releases.target_of(places.PREFIX / "current")
        outcome.previous = (
            releases.target_of(places.PREFIX / "previous") if current == manifest.release else current
        )
        if options.check:
            return preview(options, manifest.release, outcome)
        bundle.unpack(opened, manifest)
    configuration_changed = configuration.write_configuration(options, outcome)
    activate(manifest.release, manifest.version, outcome, configuration_changed, start=not options.no_start)
    releases.prune_releases()
    return outcome


def configure(options: argparse.Namespace) -> Outcome:
    """Settings and certificates for the release in use, whichever that is: a rollback stays one."""
    current = releases.target_of(places.PREFIX / "current")
    if not current:
        raise SetupError("no release is installed; 'configure' changes the settings of one that is")
    version = releases.installed_manifest(current).version
    outcome = Outcome(
        version=version,
        release=current,
        previous=releases.target_of(places.PREFIX / "previous"),
        service=services.service().name,
    )
    if options.check:
        return preview(options, current, outcome)
    activate(
        current,
        version,
        outcome,
        configuration.write_configuration(options, outcome),
        start=not options.no_start,
    )
    return outcome


def preview(options: argparse.Namespace, release: str, outcome: Outcome) -> Outcome:
    """What `install` or `configure` would change; touches nothing."""
    current = releases.target_of(places.PREFIX / "current")
    if current != release:
        outcome.note(f"release {current or 'none'} -> {release}")
    for path, data in configuration.wanted_configuration(options).items():
        if not path.exists() or path.read_bytes() != data:
            outcome.note(f"write {path}")
    if not options.no_start:
        if not services.service().running():
            outcome.note("start longshored")
        elif outcome.changed:
            outcome.note("restart longshored")
    return outcome


def activate(release: str, version: str, outcome: Outcome, changed: bool, *, start: bool) -> None:
    """Switch to `release`, (re)start what has to be, and go back if it does not answer."""
    manager = services.service()
    before = releases.target_of(places.PREFIX / "current")
    if before != release:
        if before:
            releases.switch(places.PREFIX / "previous", before)
        releases.switch(places.PREFIX / "current", release)
        outcome.note(f"release {before or 'none'} -> {release}")
        changed = True
    releases.link_commands()
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
        daemon.await_daemon(version, manager)
    except SetupError as cause:
        words = manager.last_words()
        if before and before != release:
            releases.switch(places.PREFIX / "current", before)
            manager.restart()
            raise SetupError(f"{cause}; went back to {before}. Its last words:\n{words}") from cause
        raise SetupError(f"{cause}. Its last words:\n{words}") from cause


def rollback(options: argparse.Namespace) -> Outcome:
    """Go back to the release before; running it twice returns to where one was."""
    previous = releases.target_of(places.PREFIX / "previous")
    if not previous or not (places.PREFIX / previous / "manifest.json").exists():
        raise SetupError("there is no previous release to go back to")
    version = releases.installed_manifest(previous).version
    outcome = Outcome(
        version=version,
        release=previous,
        previous=releases.target_of(places.PREFIX / "current"),
        service=services.service().name,
    )
    activate(previous, version, outcome, False, start=not options.no_start)
    return outcome


def status(_: argparse.Namespace) -> dict[str, object]:
    """Releases on this host, the service, and whether the daemon answers."""
    current = releases.target_of(places.PREFIX / "current")
    manager = services.service()
    configuration = {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [places.ETC / "daemon.json", *(places.ETC / "tls" / name for name in places.TLS_FILES)]
        if path.exists()
    }
    return {
        "installed": bool(current),
        "release": current,
        "version": releases.installed_manifest(current).version if current else "",
        "previous": releases.target_of(places.PREFIX / "previous"),
        "service": manager.name,
        "running": manager.running(),
        "configuration": configuration,
    }


def control(options: argparse.Namespace) -> Outcome | dict[str, object]:
    """start, stop, restart or status of the daemon on hosts without systemd (the LSB script calls it)."""
    manager, outcome = services.service(), Outcome(service=services.service().name)
    was_running = manager.running()
    match options.action:
        case "start":
            manager.start()
            daemon.await_daemon(
                releases.installed_manifest(releases.target_of(places.PREFIX / "current")).version, manager
            )
        case "stop":
            manager.stop()
        case "restart" | "force-reload":
            manager.restart()
            daemon.await_daemon(
                releases.installed_manifest(releases.target_of(places.PREFIX / "current")).version, manager
            )
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
    manager, outcome = services.service(), Outcome(service=services.service().name)
    if manager.running():
        running = cast(list[dict[str, Any]], daemon.ask("GET", "/containers/json?all=1"))
        if running and not options.purge:
            raise SetupError(f"{len(running)} containers exist; remove them or use --purge")
        for container in running:
            daemon.ask("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    manager.remove()
    for name in places.COMMANDS:
        if (places.LINKS / name).is_symlink():
            (places.LINKS / name).unlink()
    places.SYSCTL.unlink(missing_ok=True)
    if options.purge:
        settings: dict[str, Any] = {}
        if (places.ETC / "daemon.json").exists():
            settings = cast(dict[str, Any], json.loads((places.ETC / "daemon.json").read_text()))
        shutil.rmtree(settings.get("data-root", "/var/lib/longshore"), ignore_errors=True)
        shutil.rmtree(settings.get("exec-root", "/run/longshore"), ignore_errors=True)
        shutil.rmtree(places.ETC, ignore_errors=True)
        places.LOG.unlink(missing_ok=True)
    if places.PREFIX.exists():
        shutil.rmtree(places.PREFIX)
        outcome.note("removed the engine")
    return outcome
