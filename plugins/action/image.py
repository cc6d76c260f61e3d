# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fast road of longshore.fleet.image, and its only one for images that the controller ships."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from ansible_collections.longshore.fleet.plugins.module_utils._engine import Client, socket_exchange
from ansible_collections.longshore.fleet.plugins.module_utils._image import (
    ARGUMENTS,
    REQUIRED_IF,
    find_image,
    full_name,
    run_image,
)
from ansible_collections.longshore.fleet.plugins.plugin_utils._relay import EngineAction
from ansible_collections.longshore.fleet.plugins.plugin_utils._ship import (
    engine_download,
    inspect_parcel,
    ship,
)


class ActionModule(EngineAction):
    TRANSFERS_FILES = True
    MODULE = "longshore.fleet.image"
    ARGUMENTS = ARGUMENTS
    REQUIRED_IF = REQUIRED_IF

    def relay_serves(self, params: Mapping[str, Any]) -> bool:
        # an archive lies on the host, so the module that runs there reads it
        return params.get("source") != "load" and super().relay_serves(params)

    def serve(self, client: Client, params: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        check, diff = self._task.check_mode, self._task.diff
        if params["state"] == "absent" or params["source"] != "controller":
            return run_image(client, params, check=check, diff=diff)
        shipped = self._ship(client, params, check=check, diff=diff)
        if params["repository"] and not check:
            tagged = run_image(client, {**params, "source": "local"}, check=check, diff=False)
            shipped["changed"] |= tagged["changed"]
            shipped["actions"] += tagged["actions"]
        return shipped

    def _ship(self, client: Client, params: dict[str, Any], *, check: bool, diff: bool) -> dict[str, Any]:
        name = full_name(params["name"], params["tag"])
        begin = monotonic()
        source = Client(socket_exchange(params["controller_socket"]))
        parcel = inspect_parcel(source, client, name)
        needed = not parcel.same
        before = find_image(client, name) if needed and diff else None
        if needed and not check:
            ship(engine_download(params["controller_socket"]), client, name, parcel, self._upload)
        image = find_image(client if not (needed and check) else source, name)
        result: dict[str, Any] = {
            "changed": needed,
            "image": image or {},
            "actions": [f"shipped image {name} from the controller"] if needed else [],
            "bytes_shipped": parcel.size,
            "blobs_shipped": len(parcel.missing),
            "blobs_skipped": len(parcel.present),
            "seconds": round(monotonic() - begin, 3),
        }
        if diff:
            new = {"exists": True, "id": parcel.contents["id"]}
            old = new if not needed else {"exists": bool(before), **({"id": before["Id"]} if before else {})}
            arrive = {"blobs": [f"{blob.digest[:19]} ({blob.size} bytes)" for blob in parcel.missing]}
            result["diff"] = {"before": {name: old}, "after": {name: {**new, **(arrive if needed else {})}}}
        return result

    @contextmanager
    def _upload(self, path: str) -> Iterator[str]:
        """The connection's own file transfer, which neither Ansible nor ssh hold in memory as a whole."""
        folder = self._make_tmp_path()
        there = self._connection._shell.join_path(folder, Path(path).name)
        try:
            self._transfer_file(path, there)
            yield there
        finally:
            self._remove_tmp_path(folder)
