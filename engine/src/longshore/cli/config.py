"""config.json: where docker and we keep the logins of registries, and the programs that keep them better.

Docker's file and its helpers (https://github.com/docker/docker-credential-helpers): a helper is a program
`docker-credential-NAME` that is called with get, store, erase or list and speaks JSON on its standard streams.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, cast

from longshore.errors import EngineError, InvalidArgument

DOCKER_HUB = "https://index.docker.io/v1/"
_NOT_FOUND = "credentials not found in native keychain"
_TOKEN_USER = "<token>"  # what helpers say when the secret is an identity token


def server_key(server: str) -> str:
    """Under which name a registry's login is kept. Pure."""
    name = server.removeprefix("https://").removeprefix("http://")
    host = name.partition("/")[0]
    if host in ("", "docker.io", "index.docker.io", "registry-1.docker.io"):
        return DOCKER_HUB
    return host


class ConfigFile:
    """One config.json. Unknown keys are kept. Raises InvalidArgument for a file that is no JSON object."""

    def __init__(self, folder: str = "") -> None:
        self.path = Path(folder or os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
        try:
            value: Any = json.loads(self.path.read_bytes() or b"{}")
        except FileNotFoundError:
            value = {}
        except (OSError, ValueError) as cause:
            raise InvalidArgument(f"cannot read {self.path}", detail=str(cause)) from cause
        if not isinstance(value, dict):
            raise InvalidArgument(f"cannot read {self.path}", detail="it is not a JSON object")
        self._value = cast("dict[str, Any]", value)

    def get(self, server: str) -> dict[str, str]:
        """`username` and `password`, or `identitytoken`, with `serveraddress`; {} without a login."""
        key = server_key(server)
        if helper := self._helper(key):
            return self._from_helper(helper, key)
        logins = self._table("auths")
        known = logins.get(key) or next(
            (login for name, login in logins.items() if server_key(name) == key), None
        )
        return _decoded(known, key) if known else {}

    def store(self, server: str, username: str, password: str, token: str = "") -> str:
        """Keep a login; returns where. Raises EngineError when the helper or the disk refuses."""
        key = server_key(server)
        if helper := self._helper(key):
            secret = {
                "ServerURL": key,
                "Username": _TOKEN_USER if token else username,
                "Secret": token or password,
            }
            _call(helper, "store", json.dumps(secret))
            self._change("auths", key, {})
            return f"the credential helper {helper}"
        login: dict[str, str] = {
            "auth": base64.b64encode(f"{username}:{'' if token else password}".encode()).decode()
        }
        if token:
            login["identitytoken"] = token
        self._change("auths", key, login)
        return str(self.path)

    def erase(self, server: str) -> bool:
        """Forget a login; whether there was one."""
        key = server_key(server)
        there = bool(self.get(server))
        if helper := self._helper(key):
            try:
                _call(helper, "erase", key)
            except EngineError:
                if there:
                    raise
        for name in [name for name in self._table("auths") if server_key(name) == key]:
            self._change("auths", name, None)
        return there

    def all(self) -> dict[str, dict[str, str]]:
        """Every login that we know the name of."""
        names = {*self._table("auths"), *self._table("credHelpers")}
        if store := self._value.get("credsStore"):
            try:
                names |= set(json.loads(_call(str(store), "list", "") or "{}"))
            except (EngineError, ValueError):
                pass  # a helper without `list`, or without a key ring: what the file names is all we know
        found = {server_key(name): self.get(name) for name in names}
        return {name: login for name, login in found.items() if login}

    def _table(self, name: str) -> dict[str, Any]:
        found = self._value.get(name)
        return cast("dict[str, Any]", found) if isinstance(found, dict) else {}

    def _helper(self, key: str) -> str:
        return str(self._table("credHelpers").get(key) or self._value.get("credsStore") or "")

    @staticmethod
    def _from_helper(helper: str, key: str) -> dict[str, str]:
        try:
            found = json.loads(_call(helper, "get", key))
        except EngineError as error:
            if _NOT_FOUND in str(error):
                return {}
            raise
        if found.get("Username") == _TOKEN_USER:
            return {"identitytoken": found["Secret"], "serveraddress": key}
        return {"username": found["Username"], "password": found["Secret"], "serveraddress": key}

    def _change(self, table: str, key: str, value: dict[str, str] | None) -> None:
        """Write the file anew, readable by its owner only; the old one stays until the new one is whole."""
        entries = self._table(table)
        if value is None:
            entries.pop(key, None)
        else:
            entries[key] = value
        self._value[table] = entries
        target = self.path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(prefix=".config.json-", dir=target.parent)
        try:
            with os.fdopen(descriptor, "w") as stream:
                json.dump(self._value, stream, indent="\t")
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _decoded(login: Any, key: str) -> dict[str, str]:
    """What stands in `auths`. Raises InvalidArgument."""
    if login.get("identitytoken"):
        return {"identitytoken": login["identitytoken"], "serveraddress": key}
    try:
        user, colon, password = (
            base64.b64decode(login.get("auth") or "", validate=True).decode().partition(":")
        )
    except (binascii.Error, UnicodeDecodeError) as cause:
        raise InvalidArgument(f"the login of {key} in config.json is damaged", hint="log in again") from cause
    user, password = (user, password) if colon else (login.get("username", ""), login.get("password", ""))
    if not user:
        return {}
    return {"username": user, "password": password.rstrip("\0"), "serveraddress": key}


def _call(helper: str, action: str, given: str) -> str:
    """Raises EngineError with what the helper says."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, action], input=given, capture_output=True, text=True, check=False)
    except OSError as cause:
        raise EngineError(
            f"cannot run the credential helper {program}",
            detail=cause.strerror or str(cause),
            hint="install it, or take it out of config.json",
        ) from cause
    if done.returncode != 0:
        said = (done.stdout.strip() or done.stderr.strip()).splitlines()
        raise EngineError(
            f"the credential helper {program} failed to {action}", detail=said[0] if said else ""
        )
    return done.stdout


def auth_header(login: dict[str, str]) -> dict[str, str]:
    """A login as the header that pull and push send; {} without one."""
    if not login:
        return {}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}
