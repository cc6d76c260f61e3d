"""What kind of host is behind the SSH connection, and whether it can carry the engine."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pymachine.errors import ProvisionError
from pymachine.ssh import ParamikoTransport, Transport

OLDEST_PYTHON = (3, 11)

# Runs before anything is known of the host, so it is plain sh and prints one fact for each line.
_PROBE = r"""
( . /etc/os-release 2>/dev/null || . /usr/lib/os-release 2>/dev/null
  echo "os=${ID:-unknown}"; echo "os_version=${VERSION_ID:-}"; echo "os_name=${PRETTY_NAME:-unknown system}" )
echo "system=$(uname -s)"; echo "arch=$(uname -m)"; echo "kernel=$(uname -r)"; echo "uid=$(id -u)"
if [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then echo root=yes; fi
for name in python3 python3.14 python3.13 python3.12 python3.11 /usr/local/bin/python3; do
  path=$(command -v "$name" 2>/dev/null) || continue
  version=$("$path" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
  echo "python=$version $path"
  "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && break
done
"""


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter on the host."""

    version: tuple[int, int, int]
    path: str


@dataclass(frozen=True, slots=True)
class Host:
    """Facts of a host."""

    os: str
    os_version: str
    os_name: str
    system: str
    arch: str
    kernel: str
    uid: int
    can_be_root: bool
    pythons: tuple[Python, ...]


def parse_facts(text: str) -> Host:
    """Read the probe's output; lines that a login script printed in between are ignored. Pure."""
    facts: dict[str, str] = {}
    pythons: list[Python] = []
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if not separator:
            continue
        if key == "python":
            found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+) (/\S+)", value)
            if found:
                pythons.append(Python((int(found[1]), int(found[2]), int(found[3])), found[4]))
        else:
            facts.setdefault(key, value)
    return Host(
        os=facts.get("os", "unknown"),
        os_version=facts.get("os_version", ""),
        os_name=facts.get("os_name", "unknown system"),
        system=facts.get("system", ""),
        arch=facts.get("arch", ""),
        kernel=facts.get("kernel", ""),
        uid=int(facts.get("uid", "0") or 0),
        can_be_root=facts.get("root") == "yes",
        pythons=tuple(dict.fromkeys(pythons)),
    )


def choose_python(host: Host, where: str) -> Python:
    """The first interpreter that is new enough. Raises ProvisionError that says what is there. Pure."""
    for python in host.pythons:
        if python.version[:2] >= OLDEST_PYTHON:
            return python
    have = ", ".join(f"{_dotted(python.version)} ({python.path})" for python in host.pythons) or "none"
    raise ProvisionError(
        f"{where} ({host.os_name}) has no Python {_dotted(OLDEST_PYTHON)} or newer",
        detail=f"found {have}",
        hint="install one, like 'apt-get install python3', or use a newer distribution",
    )


def probe(transport: ParamikoTransport) -> Host:
    """Look at the host, refuse what cannot work, and make further commands run as root."""
    where = str(transport.target)
    host = parse_facts(run_script(transport, _PROBE))
    if host.system != "Linux":
        raise ProvisionError(f"{where} runs {host.system or 'an unknown system'}, not Linux")
    if not host.can_be_root:
        raise ProvisionError(
            f"{transport.target.user!r} on {transport.target.host} is not root and 'sudo -n' asks for a password",
            hint="allow it passwordless sudo, or log in as root",
        )
    choose_python(host, where)
    transport.sudo = host.uid != 0
    return host


def run_script(transport: Transport, script: str, arguments: Sequence[str] = ()) -> str:
    """Run a script by sh on the host and return what it printed."""
    return transport.run(["sh", "-s", "--", *arguments], stdin=script.encode()).stdout


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
