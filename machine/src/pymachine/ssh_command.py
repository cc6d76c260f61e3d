"""The argument vectors of the system's ssh and scp. Pure; the commands run them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pymachine.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Login:
    """How to reach one machine: what the store and the driver know."""

    name: str
    host: str
    port: int
    user: str
    key: Path | None
    known_hosts: Path


@dataclass(frozen=True, slots=True)
class Place:
    """One side of a copy: a path here, or a path on a machine."""

    path: str
    login: Login | None = None


def ssh_argv(login: Login, command: Sequence[str] = (), *, program: str = "ssh") -> list[str]:
    """ssh(1) with nothing taken from the user's configuration and the host key pinned by the machine's name."""
    argv = [
        program,
        *_common_options([login]),
        "-o", f"HostKeyAlias={login.name}",
        "-p", str(login.port),
        "-l", login.user,
    ]  # fmt: skip
    return [*argv, "--", login.host, *command]


def scp_argv(
    source: Place, target: Place, *, recursive: bool = False, quiet: bool = False, program: str = "scp"
) -> list[str]:
    """scp(1); between two machines the data passes through here, so that they need not know each other."""
    logins = [place.login for place in (source, target) if place.login]
    if not logins:
        raise InvalidInput("neither side of the copy is on a machine", hint="write MACHINE:PATH")
    argv = [program, *_common_options(logins)]
    if len({login.name for login in logins}) == 1:
        argv += ["-o", f"HostKeyAlias={logins[0].name}"]
    if len(logins) == 2:
        argv.append("-3")
    if recursive:
        argv.append("-r")
    if quiet:
        argv.append("-q")
    return [*argv, "--", _scp_place(source), _scp_place(target)]


def parse_place(text: str) -> tuple[str, str]:
    """(machine or "", path). A colon after a slash belongs to a path, as scp has it."""
    head, colon, rest = text.partition(":")
    if not colon or "/" in head:
        return "", text
    if not head:
        raise InvalidInput(f"no machine before the colon in {text!r}", hint="write MACHINE:PATH")
    return head, rest


def _scp_place(place: Place) -> str:
    if place.login is None:
        # A local name that looks like an option or a host is taken for a path this way.
        return place.path if place.path.startswith("/") else f"./{place.path}"
    host = f"[{place.login.host}]" if ":" in place.login.host else place.login.host
    # The URI form is the only one with a port of its own for each side. The path after the first slash is
    # relative to the home folder, so an absolute one begins with two.
    return f"scp://{place.login.user}@{host}:{place.login.port}/{place.path}"


def _common_options(logins: Sequence[Login]) -> list[str]:
    hosts = " ".join(dict.fromkeys(_quote(str(login.known_hosts)) for login in logins))
    options = [
        "-F", "/dev/null",
        "-o", "ConnectTimeout=10",
        "-o", "ControlMaster=no",
        "-o", "ControlPath=none",
        "-o", "LogLevel=ERROR",
        "-o", "PasswordAuthentication=no",
        "-o", "ServerAliveInterval=60",
        "-o", "StrictHostKeyChecking=yes",
        "-o", f"UserKnownHostsFile={hosts}",
        "-o", "GlobalKnownHostsFile=/dev/null",
    ]  # fmt: skip
    keys = list(dict.fromkeys(login.key for login in logins if login.key))
    if keys:
        options += ["-o", "IdentitiesOnly=yes"]
        for key in keys:
            options += ["-o", f"IdentityFile={_quote(str(key))}"]
    return options


def _quote(path: str) -> str:
    """A file name inside an ssh option: it is split at blanks and percent signs are tokens (ssh_config(5))."""
    escaped = path.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if any(character in escaped for character in ' "\\') else escaped
