"""The installer against folders and a service of the test's own."""

import json
import os
import platform
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from longshore.daemon import install
from longshore.daemon.install import configuration, daemon, places, services
from longshore.daemon.install.bundle import python_tag


@dataclass
class Recorder:
    """A service that notes what it is told."""

    name: str = "sysv"
    up: bool = False
    calls: list[str] = field(default_factory=list[str])

    def write(self) -> bool:
        return False

    def running(self) -> bool:
        return self.up

    def start(self) -> None:
        self.up = True
        self.calls.append("start")

    def stop(self) -> None:
        self.up = False
        self.calls.append("stop")

    def restart(self) -> None:
        self.calls.append("restart")

    def last_words(self) -> str:
        return ""


@dataclass
class Setup:
    """`run` is the command line; it returns the exit code, what it printed is in `said`."""

    root: Path
    service: Recorder
    run: Callable[..., int]
    said: Callable[[], str]

    def outcome(self, *argv: str) -> dict[str, Any]:
        assert self.run("--json", *argv) == 0
        return json.loads(self.said())


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Setup:
    recorder = Recorder()
    for name, path in {"PREFIX": "opt", "ETC": "etc", "LINKS": "bin", "SYSCTL": "sysctl.conf"}.items():
        monkeypatch.setattr(places, name, tmp_path / path)
    monkeypatch.setattr(services, "service", lambda: recorder)
    monkeypatch.setattr(daemon, "answers", lambda version: True)
    monkeypatch.setattr(configuration, "apply_sysctl", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def run(*argv: str) -> int:
        bundle = [word for word in argv if word.endswith(".pyz")]
        rest = [word for word in argv if not word.endswith(".pyz")]
        monkeypatch.setattr(sys, "argv", [*(bundle or ["longshore-setup"]), *rest])
        with pytest.raises(SystemExit) as end:
            install.main()
        return int(end.value.code or 0)

    return Setup(tmp_path, recorder, run, lambda: capsys.readouterr().out)


def bundle(folder: Path, version: str) -> str:
    path = folder / f"{version}.pyz"
    manifest = {
        "version": version,
        "release": f"{version}+abc",
        "arch": platform.machine(),
        "pythons": [python_tag()],
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
    return str(path)


def settings(folder: Path, **values: object) -> str:
    path = folder / "wanted.json"
    path.write_text(json.dumps(values))
    return str(path)


def test_configuring_leaves_a_rollback_alone(setup: Setup) -> None:
    for version in ("1", "2"):
        setup.outcome(bundle(setup.root, version), "install")
    assert setup.outcome("rollback")["release"] == "1+abc"
    setup.service.calls.clear()
    configured = setup.outcome("configure", "--config", settings(setup.root, debug=True))
    assert (configured["release"], configured["previous"]) == ("1+abc", "2+abc")
    assert configured["changes"] == [f"write {setup.root}/etc/daemon.json", "restart longshored"]
    assert setup.service.calls == ["restart"]
    assert (setup.root / "opt/current").readlink().name == "1+abc"

    again = setup.outcome("configure", "--config", settings(setup.root, debug=True))
    assert again["changed"] is False
    assert setup.service.calls == ["restart"]


def test_configure_needs_a_release(setup: Setup) -> None:
    assert setup.run("configure", "--config", settings(setup.root)) == 1
    assert not (setup.root / "etc").exists()


def test_previous_is_the_release_before(setup: Setup) -> None:
    one, two = bundle(setup.root, "1"), bundle(setup.root, "2")
    assert setup.outcome(one, "install")["previous"] == ""
    again = setup.outcome(one, "install")
    assert (again["changed"], again["previous"]) == (False, "")
    assert setup.outcome(two, "install")["previous"] == "1+abc"
    again = setup.outcome(two, "install")
    assert (again["changed"], again["previous"]) == (False, "1+abc")


def test_check_tells_of_everything_and_does_nothing(setup: Setup) -> None:
    one, two = bundle(setup.root, "1"), bundle(setup.root, "2")
    assert setup.outcome(one, "install", "--check")["changes"] == [
        "release none -> 1+abc",
        "start longshored",
    ]
    assert not (setup.root / "opt").exists()
    setup.outcome(one, "install")
    assert setup.outcome(two, "install", "--check")["changes"] == [
        "release 1+abc -> 2+abc",
        "restart longshored",
    ]
    assert setup.outcome(one, "install", "--check")["changes"] == []
    changes = setup.outcome("configure", "--check", "--config", settings(setup.root))["changes"]
    assert changes == [f"write {setup.root}/etc/daemon.json", "restart longshored"]
    assert setup.service.calls == ["start"]


def test_service_status_is_an_init_scripts(setup: Setup) -> None:
    setup.outcome(bundle(setup.root, "1"), "install")
    assert setup.run("service", "status") == 0
    assert setup.said() == "longshored is running (sysv)\n"
    assert setup.outcome("service", "stop")["changes"] == ["stop longshored"]
    assert setup.outcome("service", "stop")["changed"] is False
    assert setup.run("service", "status") == 3  # LSB: not running
    assert setup.said() == "longshored is not running (sysv)\n"
    assert setup.outcome("service", "start")["changes"] == ["start longshored"]


def test_the_installer_runs_alone_from_a_zip(tmp_path: Path) -> None:
    """As the bundle holds it: the package under another name, and nothing of the engine in reach."""
    root = Path(__file__).resolve().parents[3]
    main = re.search(r'MAIN = """\\\n(.*?)"""', (root / "engine/bundle.py").read_text(), re.DOTALL)
    assert main
    path = tmp_path / "setup.pyz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", main[1])
        for file in (root / "engine/src/longshore/daemon/install").glob("*.py"):
            archive.write(file, f"longshore_setup/{file.name}")
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(path), "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "uninstall" in done.stdout
