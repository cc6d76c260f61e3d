"""`--use-api-socket`: a container that talks to the engine as we do: its socket and our logins."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

from longshore.cli.client import Client
from longshore.errors import Unsupported

INSIDE = "/var/run/docker.sock"
_FOLDER = "run/secrets/docker"  # docker's place for the logins


class SharedSocket:
    """Raises Unsupported for an engine far away."""

    def __init__(self, api: Client, body: dict[str, Any]) -> None:
        """Put the engine's socket into a create request, where clients look for it."""
        from longshore.cli.login import config_file

        if not api.host.startswith("unix://"):
            raise Unsupported(
                "cannot use --use-api-socket",
                detail=f"{api.host} is not a socket of this machine",
                hint="use a unix:// host",
            )
        self._api = api
        self._logins = {
            name: {key: value for key, value in login.items() if key != "serveraddress"}
            for name, login in config_file().all().items()
        }
        mount = {"Type": "bind", "Source": api.host.removeprefix("unix://"), "Target": INSIDE}
        body["HostConfig"]["Mounts"] = [*(body["HostConfig"]["Mounts"] or []), mount]
        if self._logins:
            body["Env"] = [*body["Env"], f"DOCKER_CONFIG=/{_FOLDER}"]

    def share_logins(self, identifier: str) -> None:
        """Copy our logins into the container as a config.json that needs no helper."""
        if not self._logins:
            return
        data = json.dumps({"auths": self._logins}).encode()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            parts = _FOLDER.split("/")
            for count in range(1, len(parts) + 1):
                folder = tarfile.TarInfo("/".join(parts[:count]))
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755 if count < len(parts) else 0o700
                tar.addfile(folder)
            info = tarfile.TarInfo(f"{_FOLDER}/config.json")
            info.size, info.mode = len(data), 0o600
            tar.addfile(info, io.BytesIO(data))
        headers = {"Content-Type": "application/x-tar"}
        path = f"/containers/{identifier}/archive"
        self._api.request("PUT", path, {"path": "/"}, archive.getvalue(), headers).read()
