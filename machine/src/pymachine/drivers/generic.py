"""Any host that can be reached by SSH."""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import paramiko

from pymachine.drivers.base import Driver, Flag, State
from pymachine.errors import HostKeyRefused, InvalidInput, Unreachable
from pymachine.files import write_atomic
from pymachine.journal import Step
from pymachine.keys import HostKey, host_pattern, read_host_keys, write_known_hosts
from pymachine.record import number, text
from pymachine.ssh import Target, connect, load_key, scan, wait_for_login

_BOOT_SECONDS = 300


class GenericDriver(Driver):
    """The host exists and stays; `rm` only forgets it."""

    name = "generic"
    flags = (
        Flag(
            "generic-ip-address", "IP address or name of the host", env="GENERIC_IP_ADDRESS", metavar="HOST"
        ),
        Flag("generic-ssh-user", "user to log in as", "root", env="GENERIC_SSH_USER", metavar="USER"),
        Flag(
            "generic-ssh-key",
            "private key to log in with; without it the SSH agent and ~/.ssh/id_*",
            env="GENERIC_SSH_KEY",
            metavar="FILE",
        ),
        Flag("generic-ssh-port", "SSH port", 22, env="GENERIC_SSH_PORT", metavar="PORT"),
        Flag("generic-engine-port", "port for the engine", 2376, env="GENERIC_ENGINE_PORT", metavar="PORT"),
        Flag(
            "generic-host-key",
            "the host's public key, or a file with it; without it ~/.ssh/known_hosts",
            env="GENERIC_HOST_KEY",
            metavar="KEY|FILE",
        ),
        Flag(
            "generic-accept-host-key",
            "trust the host key that has this fingerprint",
            env="GENERIC_ACCEPT_HOST_KEY",
            metavar="SHA256:…",
        ),
    )

    @classmethod
    def configure(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        address = str(options.get("generic-ip-address") or "")
        if not address:
            raise InvalidInput("the driver 'generic' needs --generic-ip-address")
        if address.startswith("-") or any(character.isspace() for character in address):
            raise InvalidInput(f"{address!r} is not an address")
        accepted = str(options.get("generic-accept-host-key") or "")
        if accepted and not accepted.startswith("SHA256:"):
            raise InvalidInput(
                f"{accepted!r} is not a fingerprint", hint="SHA256:… as ssh-keygen -l prints it"
            )
        ports = {name: int(options[f"generic-{name}-port"]) for name in ("ssh", "engine")}
        for name, port in ports.items():
            if not 0 < port < 65536:
                raise InvalidInput(f"--generic-{name}-port {port} is not a port")
        key = str(options.get("generic-ssh-key") or "")
        given = str(options.get("generic-host-key") or "")
        return {
            "IPAddress": address,
            "SSHUser": str(options["generic-ssh-user"]),
            "SSHPort": ports["ssh"],
            "SSHKeyPath": "",
            "EnginePort": ports["engine"],
            "SourceKey": str(Path(key).expanduser().absolute()) if key else "",
            "HostKeys": [str(host_key) for host_key in read_host_keys(given)] if given else [],
            "AcceptHostKey": accepted,
        }

    def check(self) -> None:
        """Log in once: an unreachable host, a wrong key or an unknown host key leave nothing behind."""
        if self._source_key is not None:
            load_key(self._source_key)
        self.settings["HostKeys"] = [str(key) for key in self._trusted_keys()]
        connect(self._first_target()).close()

    def steps(self) -> Sequence[Step]:
        return (
            Step("generic:key", "Copying the SSH key into the store", self._copy_key),
            Step("generic:host-key", "Pinning the host key", self._pin),
            Step("generic:login", "Logging in", self._login),
        )

    def state(self, *, timeout: float = 10.0) -> State:
        try:
            socket.create_connection((self.address(), number(self.settings, "SSHPort", 22)), timeout).close()
        except OSError:
            return State.STOPPED  # docker-machine's answer too: from here it cannot be told from unreachable
        return State.RUNNING

    def restart(self) -> None:
        """Reboot the host and wait until it lets us in again."""
        with_root = connect(self.target())
        boot = with_root.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
        with_root.sudo = self.target().user != "root"
        # Detached, so that the answer arrives before the connection dies.
        with_root.run("nohup sh -c 'sleep 1; exec shutdown -r now' >/dev/null 2>&1 &")
        with_root.close()

        def same_boot() -> bool:
            transport = wait_for_login(
                self.target,
                seconds=_BOOT_SECONDS,
                still_running=lambda: None,
                tick=lambda: self.context.progress.detail("waiting for the host to come back"),
            )
            try:
                return transport.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout == boot
            finally:
                transport.close()

        _poll_while(same_boot, self.context.name)

    def remove(self) -> None:
        return

    @property
    def _source_key(self) -> Path | None:
        source = text(self.settings, "SourceKey", "")
        return Path(source) if source else None

    def _first_target(self) -> Target:
        """Before the store has the key: with the user's own file."""
        keys = tuple(HostKey(*key.split(" ", 1)) for key in self.settings["HostKeys"])
        return Target(
            self.address(),
            number(self.settings, "SSHPort"),
            text(self.settings, "SSHUser"),
            self._source_key,
            keys,
        )

    def _trusted_keys(self) -> tuple[HostKey, ...]:
        """Given by flag, accepted by fingerprint, or known to the user's own ssh. Never simply what is shown."""
        host, port = self.address(), number(self.settings, "SSHPort")
        if self.settings["HostKeys"]:
            return tuple(HostKey(*key.split(" ", 1)) for key in self.settings["HostKeys"])
        accepted = text(self.settings, "AcceptHostKey", "")
        if accepted:
            shown: list[HostKey] = []
            for key in scan(host, port):
                if key.fingerprint == accepted:
                    return (key,)
                shown.append(key)
            raise HostKeyRefused(
                f"no host key of {host}:{port} has the fingerprint {accepted}",
                detail="it shows " + ", ".join(f"{key.kind} {key.fingerprint}" for key in shown),
                fingerprint=shown[0].fingerprint if shown else "",
            )
        known = user_known_hosts(host, port)
        if known:
            return known
        key = next(scan(host, port))
        raise HostKeyRefused(
            f"the host key of {host}:{port} is not known",
            detail=f"it shows {key.kind} {key.fingerprint}",
            hint="compare it with 'ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub' on the host, then add "
            f"--generic-accept-host-key {key.fingerprint}",
            fingerprint=key.fingerprint,
        )

    def _copy_key(self) -> None:
        source = self._source_key
        if source is None:
            return
        kind = load_key(source).get_name()
        name = "id_ed25519" if "ed25519" in kind else "id_ecdsa" if "ecdsa" in kind else "id_rsa"
        target = self.context.files.folder / name
        write_atomic(target, source.read_bytes())
        self.settings["SSHKeyPath"] = str(target)

    def _pin(self) -> None:
        write_known_hosts(
            self.context.files.known_hosts,
            self.context.name,
            self.address(),
            number(self.settings, "SSHPort"),
            self._trusted_keys(),
        )

    def _login(self) -> None:
        connect(self.target()).close()


def user_known_hosts(host: str, port: int, path: Path | None = None) -> tuple[HostKey, ...]:
    """What the user's ssh already trusts for that host; hashed names included."""
    file = path or Path.home() / ".ssh" / "known_hosts"
    if not file.exists():
        return ()
    hosts = paramiko.HostKeys()
    try:
        hosts.load(str(file))
    except (OSError, paramiko.SSHException, ValueError) as cause:
        raise HostKeyRefused(f"cannot read {file}", detail=str(cause)) from cause
    found = hosts.lookup(host_pattern(host, port))
    if found is None:
        return ()
    return tuple(HostKey(key.get_name(), key.get_base64()) for key in found.values())


def _poll_while(condition: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + _BOOT_SECONDS
    while condition():
        if time.monotonic() > deadline:
            raise Unreachable(f"machine {name!r} did not reboot within {_BOOT_SECONDS} s")
        time.sleep(1)
