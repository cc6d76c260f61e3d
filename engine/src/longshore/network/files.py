"""Contents of a container's /etc/hosts and /etc/resolv.conf. Pure, but for one reader of the host's files."""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

from longshore.errors import InvalidArgument

_LOCAL = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::", "ip6-localnet"),
    ("ff00::", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)
_FALLBACK = ("8.8.8.8", "8.8.4.4")  # Docker's
RESOLVED = Path("/run/systemd/resolve/resolv.conf")


def hosts_file(
    addresses: Iterable[str],
    hostname: str,
    *,
    domainname: str = "",
    extra: Iterable[str] = (),
    gateway: str = "",
) -> str:
    """`addresses`: the container's own, one line each. `extra`: "name:address" as of --add-host.

    The address "host-gateway" means `gateway`. Raises InvalidArgument.
    """
    lines = [f"{ip}\t{names}" for ip, names in _LOCAL]
    lines += [f"{ip}\t{name}" for name, ip in (parse_extra_host(entry, gateway) for entry in extra)]
    names = f"{hostname}.{domainname} {hostname}" if domainname else hostname
    lines += [f"{ip}\t{names}" for ip in addresses if ip]
    return "\n".join(lines) + "\n"


def parse_extra_host(entry: str, gateway: str = "") -> tuple[str, str]:
    """(name, address) of "name:address" or "name=address"; IPv6 may stand in brackets."""
    separator = min((entry.find(mark) for mark in ":=" if mark in entry), default=-1)
    name, value = entry[: max(separator, 0)], entry[separator + 1 :].strip("[]")
    if not name or not value or any(character.isspace() for character in entry):
        raise InvalidArgument(f"bad format for add-host: {entry!r}", hint="write NAME:ADDRESS")
    if value == "host-gateway":
        if not gateway:
            raise InvalidArgument(f"host-gateway of {name} has no address in this network mode")
        return name, gateway
    try:
        ip_address(value)
    except ValueError as cause:
        raise InvalidArgument(f"invalid IP address in add-host: {value!r}") from cause
    return name, value


def nameservers(text: str) -> list[str]:
    """The nameserver lines of a resolv.conf, in order."""
    words = [line.split() for line in text.splitlines()]
    return [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]


def _reachable(server: str) -> bool:
    """Whether a nameserver means the same inside of a container: loopback is its own there."""
    try:
        return not ip_address(server.split("%", 1)[0]).is_loopback
    except ValueError:
        return False


def _last(text: str, keyword: str) -> list[str]:
    """resolv.conf(5): of several search or options lines the last one counts."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == keyword:
            found = words[1:]
    return found


def resolv_conf(
    host: str, *, dns: Sequence[str] = (), search: Sequence[str] = (), options: Sequence[str] = ()
) -> str:
    """The host's, with nameservers that a container cannot reach left out; each given list replaces the host's.

    The single search domain "." asks for none, as with Docker.
    """
    servers = list(dns) or [server for server in nameservers(host) if _reachable(server)] or list(_FALLBACK)
    for server in dns:
        try:
            ip_address(server)
        except ValueError as cause:
            raise InvalidArgument(f"invalid nameserver address: {server!r}") from cause
    domains = [] if list(search) == ["."] else list(search) or _last(host, "search")
    flags = list(options) or _last(host, "options")
    lines = [f"nameserver {server}" for server in servers]
    lines += [f"search {' '.join(domains)}"] if domains else []
    lines += [f"options {' '.join(flags)}"] if flags else []
    return "\n".join(lines) + "\n"


def host_resolv_conf(path: Path = Path("/etc/resolv.conf"), resolved: Path = RESOLVED) -> str:
    """The host's resolv.conf with real nameservers: where systemd-resolved's stub is the only one, its upstreams."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    servers = nameservers(text)
    if servers and not any(map(_reachable, servers)):
        try:
            return resolved.read_text(errors="replace")
        except OSError:
            pass  # another local resolver: `resolv_conf` falls back to public ones
    return text
