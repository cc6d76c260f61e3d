"""Where the suite comes from and how one of its files is run. The PyPI sdist has no tests, so it is git's."""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from tests.suites.dockerpy.table import File, Outcome

RELEASE = "7.1.0"
REPOSITORY = "https://github.com/docker/docker-py.git"
API_VERSION = "1.44"  # what the suite's own Makefile asks for
# pytest 8 lets one file's session fixture wreck the environment of the others
REQUIREMENTS = (
    "pytest<8", "pytest-timeout<2.4", "paramiko>=2.4.3", "websocket-client>=1.3", "requests>=2.26", "urllib3>=1.26",
)  # fmt: skip
SWARM = ("swarm", "service", "node", "secret", "config_test")


@dataclass(frozen=True)
class Suite:
    folder: Path
    python: Path
    release: str


def prepare(work: Path, release: str, origin: str) -> Suite:
    """Fetch the release and make the suite's own environment; twice is fine and costs nothing."""
    work.mkdir(parents=True, exist_ok=True)
    folder = work / f"docker-py-{release}"
    if not (folder / "tests/integration").is_dir():
        fetch(folder, release, origin)
    python = work / "venv/bin/python"
    stamp, wanted = work / "venv/requirements", "\n".join(REQUIREMENTS)
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", work / "venv"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
        stamp.write_text(wanted)
    return Suite(folder, python, release)


def fetch(folder: Path, release: str, origin: str) -> None:
    """An unpacked checkout is copied, anything else is cloned."""
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    if (Path(origin) / "tests/integration").is_dir():
        shutil.copytree(origin, fresh)
    else:
        command = [
            "git",
            "-c",
            "advice.detachedHead=false",
            "clone",
            "-q",
            "--depth=1",
            f"--branch={release}",
        ]
        if subprocess.run([*command, origin, fresh]).returncode != 0:
            sys.exit(
                f"cannot fetch docker-py {release} from {origin}: "
                "name a mirror or an unpacked checkout with --source or $DOCKERPY_SOURCE"
            )
    fresh.rename(folder)


def files(suite: Suite) -> list[str]:
    """Names of the suite's files, without the ending."""
    base = suite.folder / "tests/integration"
    return sorted(str(path.relative_to(base).with_suffix("")) for path in base.rglob("*_test.py"))


def needs_swarm(name: str) -> bool:
    return any(word in f"{name}_" or word == name.removeprefix("api_") for word in SWARM)


def run(suite: Suite, name: str, host: str, keyword: str = "") -> File:
    """Run one file in a pytest of its own, as every file of the suite expects."""
    report = suite.folder.parent / f"{name.replace('/', '-')}.xml"
    report.unlink(missing_ok=True)
    home = suite.folder.parent / "home"
    shutil.rmtree(home, ignore_errors=True)
    (home / ".docker").mkdir(parents=True)
    (home / ".docker/config.json").write_text(
        "{}"
    )  # without it contexts would be kept in the working directory
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "DOCKER_HOST": host,
        "DOCKER_TEST_API_VERSION": API_VERSION,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [suite.python, "-m", "pytest", f"tests/integration/{name}.py", f"--junitxml={report}", "--timeout=300",
         "-q", "-p", "no:cacheprovider", "-k", keyword],
        cwd=suite.folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    (suite.folder.parent / f"{name.replace('/', '-')}.log").write_text(done.stdout + done.stderr)
    if not report.exists():
        return File(name, (Outcome("(collection)", "failed", done.stdout[-400:] + done.stderr[-400:]),), 0.0)
    return parse(name, report)


def parse(name: str, report: Path) -> File:
    """pytest's JUnit report as outcomes: xfail counts as skipped, as in pytest's own summary of skips."""
    outcomes: list[Outcome] = []
    seconds = 0.0
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kind = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        seconds += float(case.get("time", "0"))
        wrong = [part for part in case if part.tag in ("failure", "error")]
        skipped = [part for part in case if part.tag == "skipped"]
        state = "failed" if wrong else "skipped" if skipped else "passed"
        message = next((part.get("message", "") for part in [*wrong, *skipped]), "")
        outcomes.append(Outcome(kind, state, " ".join(message.split())))
    return File(name, tuple(outcomes), seconds)
