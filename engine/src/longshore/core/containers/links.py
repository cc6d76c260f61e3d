"""`--link db:database`: names in /etc/hosts and, on the default bridge, variables that tell where the other one is.

https://docs.docker.com/engine/network/links/: a link is to a running container, by name; its address is looked up at
each start of either side.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from longshore.core.containers.container import Container
from longshore.core.containers.parts import Parts
from longshore.core.containers.record import Record
from longshore.core.ports import expand_exposed, parse_port
from longshore.core.validate import parse_link
from longshore.errors import Conflict, InvalidArgument, NotFound

log = logging.getLogger(__name__)

_NOT_TOLD = ("HOME", "PATH")


@dataclass(frozen=True, slots=True)
class Linked:
    """One link with the container it leads to. `ip` is empty while that one has no address in a common network."""

    alias: str
    peer: Record
    ip: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.alias, self.peer.config.hostname, self.peer.name)))


def all_links(record: Record) -> list[str]:
    """Of HostConfig and of each network, each alias once."""
    texts = list(record.host_config.links or ())
    for settings in (record.networking.endpoints_config or {}).values():
        texts += settings.links or ()
    return list({parse_link(text)[1]: text for text in texts}.values())


def name_links(parts: Parts, name: str, links: Sequence[str] | None) -> list[str] | None:
    """As inspect shows them, "/db:/web/database". Raises InvalidArgument for a container that is not there."""
    if not links:
        return None
    result: list[str] = []
    for text in links:
        peer, alias = parse_link(text)
        try:
            result.append(f"/{parts.store.get(peer).name}:/{name}/{alias}")
        except NotFound as cause:
            # not NotFound: the docker CLI reads 404 of create as "pull the image first"
            raise InvalidArgument(f"could not get container for {peer}: {cause}") from cause
    return result


def linked_names(containers: Iterable[Container]) -> dict[str, list[str]]:
    """By container name: the further names that links give it, "/web/database". Pure."""
    names: dict[str, list[str]] = {}
    for container in containers:
        for text in container.record.host_config.links or ():
            peer, alias = parse_link(text)
            names.setdefault(peer.lstrip("/"), []).append(f"/{container.name}/{alias}")
    return names


def remove_link(parts: Parts, name: str) -> None:
    """Forget the link "web/database"; both containers stay. Raises InvalidArgument, NotFound."""
    child, found, alias = name.removeprefix("/").partition("/")
    if not found or not child or not alias:
        raise InvalidArgument(f"cannot remove link {name!r}", hint="name it CONTAINER/ALIAS")
    container = parts.store.get(child)
    host = container.record.host_config
    left = [text for text in host.links or () if parse_link(text)[1] != alias]
    if len(left) == len(host.links or ()):
        raise NotFound(f"container {container.name} has no link {alias}")
    host.links = left or None
    parts.store.save(container)


def find_links(parts: Parts, record: Record, *, strict: bool = False) -> list[Linked]:
    """Where the links lead now. `strict`: on the default bridge both must run. Raises Conflict, NotFound then."""
    on_bridge = record.host_config.network_mode == "bridge"
    found: list[Linked] = []
    for text in all_links(record):
        name, alias = parse_link(text)
        try:
            peer = parts.store.get(name)
        except NotFound:
            if strict and on_bridge:
                raise
            continue  # a user-defined network takes links to what does not exist yet
        if strict and on_bridge and not peer.running:
            raise Conflict(f"Cannot link to a non running container: /{peer.name} AS /{record.name}/{alias}")
        shared = [
            name for name in peer.record.endpoints if name in (record.networking.endpoints_config or {})
        ]
        ip = peer.record.endpoints[shared[0]].ip if shared else ""
        found.append(Linked(alias, peer.record, ip))
    return found


def host_lines(links: Sequence[Linked]) -> list[str]:
    """Lines for /etc/hosts."""
    return [f"{link.ip}\t{' '.join(link.names)}" for link in links if link.ip]


def environment(record: Record, links: Sequence[Linked]) -> tuple[str, ...]:
    """DATABASE_PORT_5432_TCP_ADDR and the like; only on the default bridge, as with Docker."""
    if record.host_config.network_mode != "bridge":
        return ()
    return tuple(entry for link in links if link.ip for entry in _variables(record, link))


def _variables(record: Record, link: Linked) -> Iterator[str]:
    prefix = link.alias.replace("-", "_").upper()
    ports = [parse_port(text) for text in expand_exposed(link.peer.config.exposed_ports)]
    ports.sort(key=lambda port: (port[2] != "tcp", port[0]))
    if ports:
        yield f"{prefix}_PORT={ports[0][2]}://{link.ip}:{ports[0][0]}"
    for number, _, protocol in ports:
        one = f"{prefix}_PORT_{number}_{protocol.upper()}"
        yield f"{one}={protocol}://{link.ip}:{number}"
        yield f"{one}_ADDR={link.ip}"
        yield f"{one}_PORT={number}"
        yield f"{one}_PROTO={protocol}"
    yield f"{prefix}_NAME=/{record.name}/{link.alias}"
    for entry in link.peer.config.env or ():
        name, _, value = entry.partition("=")
        if name not in _NOT_TOLD:
            yield f"{prefix}_ENV_{name}={value}"
