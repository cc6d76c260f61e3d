"""What is in the bundle, and how it gets onto the disk."""

import json
import platform
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from . import places
from .outcome import SetupError


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself (`manifest.json`)."""

    version: str
    release: str  # version and a digest of the contents, the name of the folder under /opt/longshore
    arch: str
    pythons: tuple[str, ...]


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
    release = places.PREFIX / manifest.release
    if (release / "manifest.json").exists():
        return release
    places.PREFIX.mkdir(parents=True, exist_ok=True, mode=0o755)
    for leftover in places.PREFIX.glob(".unpack-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=".unpack-", dir=places.PREFIX))
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
    for name, module in places.COMMANDS.items():
        script = folder / name
        script.write_text(
            f"#!{interpreter} -I\n"
            "import sys\n"
            f"sys.path.insert(0, {str(release / 'lib')!r})\n"
            f"from {module} import main\n"
            "sys.exit(main())\n"
        )
        script.chmod(0o755)
