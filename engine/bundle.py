"""Build the bundle: one executable zip per architecture with the engine, its dependencies and the installer.

`make bundle` runs it. Dependencies are wheels for every Python that the bundle serves; on the host nothing is
compiled and no package index is asked. The same sources give the same release name.
"""

import argparse
import hashlib
import json
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHONS = ("3.11", "3.12", "3.13")
# Debian 12 has glibc 2.36: everything up to manylinux_2_34 runs there.
GLIBC = ("2_34", "2_28", "2_17", "2_12", "2_5")

# The installer is there twice: in the engine's wheel, and beside it for a host that has no engine yet.
MAIN = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("longshore-setup: Python 3.11 or newer is needed, this is " + sys.version.split()[0])
from longshore_setup import main

main()
"""


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True
    )


def engine_wheel(folder: Path, version: str) -> Path:
    """Build our own wheel; `version` overrides the one in the sources (to try an upgrade)."""
    source = folder / "engine"
    shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    if version:
        init = source / "src/longshore/__init__.py"
        lines = init.read_text().splitlines(keepends=True)
        init.write_text(
            "".join(f'__version__ = "{version}"\n' if x.startswith("__version__") else x for x in lines)
        )
    pip("wheel", "--no-deps", "--wheel-dir", str(folder / "own"), str(source))
    (wheel,) = (folder / "own").glob("longshore-*.whl")
    return wheel


def dependencies(wheel: Path, arch: str, cache: Path) -> Path:
    """Download the dependencies' wheels, once per set of requirements."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        needs = sorted(
            line for line in archive.read(name).decode().splitlines() if line.startswith("Requires-Dist:")
        )
    key = hashlib.sha256(json.dumps([needs, PYTHONS, GLIBC, arch]).encode()).hexdigest()[:16]
    folder = cache / key
    if folder.exists():
        return folder
    scratch = Path(tempfile.mkdtemp(prefix="wheels-", dir=cache))
    for python in PYTHONS:
        tag = "cp" + python.replace(".", "")
        pip(
            "download", "--only-binary=:all:", "--dest", str(scratch / tag), "--python-version", python,
            "--implementation", "cp", "--abi", tag, "--abi", "abi3", "--abi", "none",
            *(word for glibc in GLIBC for word in ("--platform", f"manylinux_{glibc}_{arch}")),
            str(wheel),
        )  # fmt: skip
        for own in (scratch / tag).glob("longshore-*.whl"):
            own.unlink()
    (scratch / "any").mkdir()
    for shared in list(scratch.glob("cp*/*.whl")):
        if shared.name.endswith("-none-any.whl") or _serves_all(shared):
            shared.replace(scratch / "any" / shared.name)
    scratch.rename(folder)
    return folder


def _serves_all(wheel: Path) -> bool:
    """Whether pip chose this one file, of the stable ABI (PEP 384), for every Python, or has moved it already."""
    places = [wheel.parent.parent / ("cp" + python.replace(".", "")) / wheel.name for python in PYTHONS]
    moved = (wheel.parent.parent / "any" / wheel.name).exists()
    return "-abi3-" in wheel.name and (moved or all(place.exists() for place in places))


def write_bundle(target: Path, members: dict[str, Path | bytes]) -> None:
    """An executable zip with fixed times, so that equal contents give an equal file."""
    scratch = target.with_suffix(".part")
    with scratch.open("wb") as stream:
        stream.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in sorted(members.items()):
                data = content if isinstance(content, bytes) else content.read_bytes()
                stored = zipfile.ZIP_STORED if name.endswith(".whl") else zipfile.ZIP_DEFLATED
                archive.writestr(zipfile.ZipInfo(name), data, stored)
    scratch.chmod(scratch.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    scratch.replace(target)


def wheel_digest(wheel: Path) -> str:
    """Digest of what a wheel holds, whatever the times in its zip headers."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            digest.update(name.encode() + hashlib.sha256(archive.read(name)).digest())
    return digest.hexdigest()


def build(output: Path, *, version: str = "") -> Path:
    arch = platform.machine()
    cache = output / "wheels"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = engine_wheel(Path(scratch), version)
        wheels = dependencies(wheel, arch, cache)
        version = wheel.name.split("-")[1]
        members: dict[str, Path | bytes] = {
            "__main__.py": MAIN.encode(),
            **{
                f"longshore_setup/{path.name}": path
                for path in (HERE / "src/longshore/daemon/install").glob("*.py")
            },
            f"wheels/any/{wheel.name}": wheel,
        }
        members |= {f"wheels/{path.parent.name}/{path.name}": path for path in wheels.glob("*/*.whl")}
        digest = hashlib.sha256(wheel_digest(wheel).encode())
        for name in sorted(members):
            digest.update(name.encode())
        release = f"{version}+{digest.hexdigest()[:8]}"
        members["manifest.json"] = json.dumps(
            {
                "version": version,
                "release": release,
                "arch": arch,
                "pythons": ["cp" + python.replace(".", "") for python in PYTHONS],
            }
        ).encode()
        target = output / f"longshore-{version}-{arch}.pyz"
        write_bundle(target, members)
    return target


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--output", type=Path, default=HERE.parent / "build")
    options.add_argument("--version", default="", help="override the version, to try an upgrade")
    given = options.parse_args()
    print(build(given.output, version=given.version))
