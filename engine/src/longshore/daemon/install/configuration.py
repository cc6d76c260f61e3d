"""Settings, certificates and kernel parameters below /etc."""

import argparse
import json
import sys
from pathlib import Path

from . import places
from .files import write_if_changed
from .outcome import Outcome, SetupError

SYSCTL_TEXT = """\
# Written by the Longshore installer.
net.ipv4.ip_forward = 1
fs.inotify.max_user_instances = 8192
"""


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
        files[places.ETC / "daemon.json"] = data
    if options.tls_dir:
        for name in places.TLS_FILES:
            source = Path(options.tls_dir) / name
            if not source.exists():
                raise SetupError(f"{source} is missing; --tls-dir needs {', '.join(places.TLS_FILES)}")
            files[places.ETC / "tls" / name] = source.read_bytes()
    return files


def write_configuration(options: argparse.Namespace, outcome: Outcome) -> bool:
    """Write settings, certificates and sysctl; returns True when the daemon must be restarted for it."""
    changed = False
    for path, data in wanted_configuration(options).items():
        if write_if_changed(path, data, 0o600):
            outcome.note(f"write {path}")
            changed = True
    if write_if_changed(places.SYSCTL, SYSCTL_TEXT.encode(), 0o644):
        outcome.note(f"write {places.SYSCTL}")
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
