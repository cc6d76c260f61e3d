"""The kernel ring inside of the machine: sources, test tools and the stock docker command on a second disk."""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from machine import ROOT, Machine, run, say

HOME = ROOT / "build/vm-ring"
PYTHON = "3.11"  # of the machine's suite
TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "docker")
GLIBC = ("2_34", "2_28", "2_17", "2_12", "2_5")
PLACE = "/opt/ring"
COMMANDS = {"longshored": "longshore.daemon.main", "longshore": "longshore.cli.main"} | {
    "longshore-oci": "longshore.runtime.oci_command"
}


def build_disk() -> Path:
    """A file system with a virtual environment of the engine's dependencies and the tests' tools; made once."""
    needs = [ROOT / "engine/pyproject.toml", ROOT / "requirements.txt", Path(__file__)]
    stamp = hashlib.sha256(b"".join(path.read_bytes() for path in needs)).hexdigest()[:16]
    disk = HOME / "ring.raw"
    if (HOME / "stamp").exists() and (HOME / "stamp").read_text() == stamp:
        return disk
    shutil.rmtree(HOME, ignore_errors=True)
    tree = HOME / "tree"
    site = tree / f".venv/lib/python{PYTHON}/site-packages"
    site.mkdir(parents=True)
    say("the test tools for the machine")
    run(
        sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-compile",
        "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", "--target", site,
        *(word for glibc in GLIBC for word in ("--platform", f"manylinux_{glibc}_x86_64")),
        *engine_needs(), *required(),
    )  # fmt: skip
    environment(tree)
    docker = ROOT / "build/docker/usr/bin/docker"
    if docker.exists():
        (tree / "build/docker/usr/bin").mkdir(parents=True)
        shutil.copy(docker, tree / "build/docker/usr/bin/docker")
    with disk.open("wb") as stream:
        stream.truncate(1 << 30)
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, "-F", disk)
    shutil.rmtree(tree)
    (HOME / "stamp").write_text(stamp)
    return disk


def engine_needs() -> list[str]:
    return tomllib.loads((ROOT / "engine/pyproject.toml").read_text())["project"]["dependencies"]


def required() -> list[str]:
    """The tests' tools with the versions of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line.split(">")[0] in TOOLS]


def environment(tree: Path) -> None:
    """A virtual environment by hand: the machine has no ensurepip."""
    home, binaries = tree / ".venv", tree / ".venv/bin"
    binaries.mkdir()
    (home / "pyvenv.cfg").write_text(
        "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n"
    )
    (binaries / "python").symlink_to("/usr/bin/python3")
    for name, module in COMMANDS.items():
        (binaries / name).write_text(
            f"#!{PLACE}/.venv/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
        )
        (binaries / name).chmod(0o755)
    (home / f"lib/python{PYTHON}/site-packages/longshore.pth").write_text(f"{PLACE}/engine/src\n")


@dataclass(frozen=True)
class Outcome:
    code: int
    text: str
    passed: int


def run_tests(machine: Machine, driver: str, what: tuple[str, ...], seconds: float) -> Outcome:
    """Run pytest inside; tests know the driver from LONGSHORE_TEST_CGROUP_DRIVER."""
    words = [
        f"{PLACE}/.venv/bin/python",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--tb=short",
        "--timeout=900",
    ]
    text = machine.ssh(
        f"cd {PLACE} && LONGSHORE_TEST_CGROUP_DRIVER={driver} {shlex.join([*words, '-q', *what])} 2>&1; echo code $?",
        timeout=seconds,
    )
    passed = re.search(r"(\d+) passed", text)
    return Outcome(int(text.rsplit("code ", 1)[1]), text, int(passed[1]) if passed else 0)


def install(machine: Machine, work: Path) -> None:
    """Mount the second disk and put the sources of this checkout there."""
    archive = work / "sources.tar"
    subprocess.run(
        ["tar", "-C", ROOT, "-cf", archive, "--exclude=__pycache__", "engine/src", "tests", "pyproject.toml"],
        check=True,
    )
    machine.copy(archive, "/tmp/sources.tar")
    machine.ssh(
        f"mkdir -p {PLACE} && mount /dev/vdb {PLACE} && tar -C {PLACE} -xf /tmp/sources.tar && rm /tmp/sources.tar"
    )
