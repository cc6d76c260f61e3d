"""Which releases are installed, and which one is in use."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

from . import places
from .bundle import Manifest
from .outcome import SetupError


def target_of(link: Path) -> str:
    return link.readlink().name if link.is_symlink() else ""


def switch(link: Path, release: str) -> None:
    """Point `link` at a release in one rename(2)."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(release)
    fresh.replace(link)


def link_commands() -> None:
    places.LINKS.mkdir(parents=True, exist_ok=True)
    for name in places.COMMANDS:
        link, target = places.LINKS / name, places.PREFIX / "current/bin" / name
        if link.is_symlink() and link.readlink() == target:
            continue
        if link.exists() and not link.is_symlink():
            raise SetupError(f"{link} is in the way and not ours; move it and run again")
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def prune_releases() -> None:
    """Keep the current and the previous release; a daemon still running an older one has loaded its code."""
    keep = {target_of(places.PREFIX / "current"), target_of(places.PREFIX / "previous")}
    for folder in places.PREFIX.iterdir():
        if folder.is_dir() and not folder.is_symlink() and folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def installed_manifest(release: str) -> Manifest:
    values = cast(dict[str, Any], json.loads((places.PREFIX / release / "manifest.json").read_text()))
    return Manifest(values["version"], values["release"], values["arch"], tuple(values["pythons"]))
