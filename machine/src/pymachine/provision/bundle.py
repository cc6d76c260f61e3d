"""The engine's bundle: one executable zip for each architecture, with a manifest inside."""

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pymachine.errors import ProvisionError

ENVIRONMENT = "PYMACHINE_ENGINE_BUNDLE"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle file and what it says of itself."""

    path: Path
    version: str
    release: str
    arch: str
    sha256: str

    @property
    def size(self) -> int:
        return self.path.stat().st_size


def choose(explicit: str, arch: str) -> Bundle | None:
    """The bundle named by flag or environment, else the newest one for `arch` in ./build; None when there is none.

    Raises ProvisionError when a named one is missing, broken or for another architecture.
    """
    named = explicit or os.environ.get(ENVIRONMENT, "")
    if named:
        bundle = read(Path(named).expanduser())
        if bundle.arch != arch:
            raise ProvisionError(f"the bundle {bundle.path} is for {bundle.arch}, the machine is {arch}")
        return bundle
    found = [path for folder in _folders() for path in folder.glob(f"longshore-*-{arch}.pyz")]
    return read(max(found, key=lambda path: path.stat().st_mtime)) if found else None


def check_available(explicit: str) -> None:
    """Refuse early what `choose` would refuse late: no bundle at all, or a named one that is not a bundle."""
    named = explicit or os.environ.get(ENVIRONMENT, "")
    if named:
        read(Path(named).expanduser())
    elif not any(path for folder in _folders() for path in folder.glob("longshore-*.pyz")):
        raise ProvisionError(
            "there is no engine bundle in ./build",
            hint="run 'make bundle', name one with --engine-bundle FILE, or create a bare host with --no-engine",
        )


def read(path: Path) -> Bundle:
    """Open a bundle. Raises ProvisionError when it is not one."""
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = cast(dict[str, Any], json.loads(archive.read("manifest.json")))
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return Bundle(
            path.absolute(), str(manifest["version"]), str(manifest["release"]), str(manifest["arch"]), digest
        )
    except FileNotFoundError as cause:
        raise ProvisionError(f"the bundle {path} does not exist", hint="'make bundle' builds one") from cause
    except OSError as cause:
        raise ProvisionError(f"cannot read the bundle {path}", detail=cause.strerror or str(cause)) from cause
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as cause:
        raise ProvisionError(f"{path} is not a Longshore bundle", detail=str(cause)) from cause


def _folders() -> list[Path]:
    """./build, and the build folder of the source tree this program runs from, if it runs from one."""
    checkout = Path(__file__).resolve().parents[4]
    return list(dict.fromkeys([Path.cwd() / "build", checkout / "build"]))
