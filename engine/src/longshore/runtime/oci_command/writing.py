"""spec: a config.json to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from longshore.errors import Conflict, Unsupported
from longshore.oci.runtime_spec import VERSION, Namespace
from longshore.runtime.bundle import default_spec
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.oci_command.context import Context


def spec(context: Context) -> None:
    if context.given.flag("rootless"):
        raise Unsupported(
            "longshore-oci runs as root", hint="leave out --rootless; user namespaces are for less"
        )
    path = Path(context.given.text("bundle")) / "config.json"
    if path.exists():
        raise Conflict(f"file {path} exists. Remove it first")
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_spelled_out()), indent=2) + b"\n")


def _spelled_out() -> dict[str, Any]:
    """With what the specification asks for even where it is our default: who edits the file looks for it."""
    chosen = default_spec()
    if layout().pure_v2:
        namespaces = (*chosen.linux.namespaces, Namespace("cgroup"))
        chosen = replace(chosen, linux=replace(chosen.linux, namespaces=namespaces))
    plain: dict[str, Any] = msgspec.to_builtins(chosen)
    plain["process"] |= {"user": {"uid": 0, "gid": 0}, "cwd": "/"}
    plain["root"]["path"] = "rootfs"
    return {"ociVersion": VERSION, **plain}
