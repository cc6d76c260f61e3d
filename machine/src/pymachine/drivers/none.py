"""An engine that somebody else runs: only its URL is known."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pymachine.drivers.base import Driver, Flag, State
from pymachine.errors import InvalidInput
from pymachine.journal import Step
from pymachine.record import text


class NoneDriver(Driver):
    """No SSH, no provisioning: the machine is a name for a URL."""

    name = "none"
    flags = (Flag("url", "URL of the engine, like tcp://10.0.0.7:2376", metavar="URL"),)
    has_ssh = False

    @classmethod
    def configure(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        url = str(options.get("url") or "")
        parts = urlsplit(url)
        if not url:
            raise InvalidInput("the driver 'none' needs --url", hint="like --url tcp://10.0.0.7:2376")
        if parts.scheme not in ("tcp", "unix", "ssh") or not (parts.hostname or parts.path):
            raise InvalidInput(f"{url!r} is not the URL of an engine", hint="like tcp://10.0.0.7:2376")
        return {"URL": url, "IPAddress": parts.hostname or ""}

    def check(self) -> None:
        return

    def steps(self) -> Sequence[Step]:
        return ()

    def state(self, *, timeout: float = 10.0) -> State:
        return State.RUNNING

    def engine_url(self, port: int) -> str:
        return text(self.settings, "URL")

    def remove(self) -> None:
        return
