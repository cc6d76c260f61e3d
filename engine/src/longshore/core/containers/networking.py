"""A container's places in networks: reserved before a start, given back after the end, changed while it runs."""

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from longshore.core.containers.container import Container
from longshore.core.containers.links import all_links, find_links, host_lines
from longshore.core.containers.parts import Parts
from longshore.core.containers.record import Record
from longshore.core.containers.roots import open_running
from longshore.core.model import EndpointSettings
from longshore.core.ports import plan_mappings
from longshore.core.validate import check_endpoint, parse_link
from longshore.errors import Conflict, EngineError, InvalidArgument, NotFound
from longshore.network.files import host_resolv_conf, hosts_file, resolv_conf
from longshore.network.model import EndpointRequest, PortMapping

log = logging.getLogger(__name__)

FILES = ("resolv.conf", "hostname", "hosts")


def allocate_endpoints(parts: Parts, record: Record) -> None:
    """Reserve an address in each network, and the published ports in the first. The caller releases after a failure."""
    mappings = plan_mappings(
        record.host_config.port_bindings,
        record.config.exposed_ports,
        publish_all=record.host_config.publish_all_ports,
    )
    predecessor = parts.store.find(record.successor_of)
    if predecessor is None or not predecessor.running:
        record.successor_of = ""
    for name, settings in (record.networking.endpoints_config or {}).items():
        request = _request(record, name, settings, () if record.endpoints else mappings)
        record.endpoints[name] = parts.network.allocate(request)


def _request(
    record: Record, network: str, settings: EndpointSettings, ports: tuple[PortMapping, ...]
) -> EndpointRequest:
    used = {endpoint.interface for endpoint in record.endpoints.values()}
    return EndpointRequest(
        container_id=record.id,
        network=network,
        ports=ports,
        mac=settings.mac_address,
        ip=settings.ipam_config.ipv4_address if settings.ipam_config else "",
        link_local=tuple(settings.ipam_config.link_local_ips or ()) if settings.ipam_config else (),
        name=record.name,
        interface=next(name for number in range(1000) if (name := f"eth{number}") not in used),
        successor_of=record.successor_of,
    )


async def release_endpoints(parts: Parts, container: Container) -> None:
    """Give every endpoint back and forget it (not saved). Twice is fine; a failure is logged and swept later."""
    endpoints = list(container.record.endpoints.values())
    container.record.endpoints = {}
    for endpoint in endpoints:
        try:
            await parts.network.unplug(endpoint)
        except EngineError as error:
            log.warning("container %s: network %s: %s", container.name, endpoint.network, error)


def hosts_text(parts: Parts, record: Record) -> str:
    """/etc/hosts of the container; with the host's network the host's own, plus what was asked for."""
    host, config = record.host_config, record.config
    if host.network_mode == "host":
        extra = hosts_file([], config.hostname, extra=host.extra_hosts or (), gateway="127.0.0.1")
        return Path("/etc/hosts").read_text(errors="replace") + (
            extra.partition("ff02::2\tip6-allrouters\n")[2] if host.extra_hosts else ""
        )
    endpoints = record.endpoints.values()
    text = hosts_file(
        [endpoint.ip for endpoint in endpoints],
        config.hostname,
        domainname=config.domainname,
        extra=host.extra_hosts or (),
        gateway=next((endpoint.gateway for endpoint in endpoints if endpoint.gateway), ""),
    )
    return text + "".join(f"{line}\n" for line in host_lines(find_links(parts, record)))


def tell_linked(parts: Parts, container: Container) -> None:
    """The running containers that link to this one learn its address, which it got at its start."""
    names = {container.name, container.id}
    for other in parts.store:
        if not other.running or other is container:
            continue
        if any(parse_link(text)[0].lstrip("/") in names for text in all_links(other.record)):
            (other.folder / "hosts").write_text(hosts_text(parts, other.record))


def write_files(parts: Parts, record: Record, folder: Path) -> None:
    """The three files that are bind-mounted into the container. In place: a mount keeps to its inode."""
    host, defaults = record.host_config, parts.defaults
    texts = {
        "hosts": hosts_text(parts, record),
        "hostname": f"{record.config.hostname}\n",
        "resolv.conf": resolv_conf(
            host_resolv_conf(),
            dns=host.dns or defaults.dns,
            search=host.dns_search or defaults.dns_search,
            options=host.dns_options or defaults.dns_options,
        ),
    }
    for name, text in texts.items():
        path = folder / name
        path.write_text(text)
        path.chmod(0o644)


class Joiner:
    """`docker network connect` and `disconnect`: what core.networks calls its connector."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def users_of(self, network: str) -> Sequence[str]:
        """Names of containers, also stopped ones, that are set up for the network."""
        return [
            container.name
            for container in self._parts.store
            if network in (container.record.networking.endpoints_config or {})
        ]

    def id_of(self, container: str) -> str:
        """The id of a container; the name itself when it is gone."""
        try:
            return self._parts.store.get(container).id
        except NotFound:
            return container

    async def connect(self, container: str, network: str, settings: EndpointSettings) -> None:
        """At once while it runs, else at its next start. Raises Conflict when it is in the network already."""
        check_endpoint(settings)
        found = self._parts.store.get(container)
        async with found.lock:
            record = found.record
            mode = record.host_config.network_mode
            if mode in ("host", "none") or mode.startswith("container:"):
                raise InvalidArgument(
                    f"container with network mode {mode} cannot be connected to another network"
                )
            asked = dict(record.networking.endpoints_config or {})
            if network in asked:
                raise Conflict(f"endpoint with name {found.name} already exists in network {network}")
            settings = replace(settings, network_id=self._parts.networks.get(network).id)
            if found.running:
                await self._plug(found, network, settings)
            record.networking.endpoints_config = {**asked, network: settings}
            self._parts.store.save(found)

    async def _plug(self, container: Container, network: str, settings: EndpointSettings) -> None:
        record = container.record
        endpoint = self._parts.network.allocate(_request(record, network, settings, ()))
        try:
            netns = open_running(record.state, "ns/net")
        except Conflict:
            await self._parts.network.unplug(endpoint)
            raise
        try:
            record.endpoints[network] = await self._parts.network.plug(endpoint, netns, None)
        except BaseException:
            await asyncio.shield(self._parts.network.unplug(endpoint))
            raise
        finally:
            os.close(netns)
        (container.folder / "hosts").write_text(hosts_text(self._parts, record))

    async def disconnect(self, container: str, network: str, *, force: bool = False) -> None:
        """Raises NotFound when it is not in the network; with `force` a container that is gone is fine."""
        try:
            found = self._parts.store.get(container)
        except NotFound:
            if force:
                return
            raise
        async with found.lock:
            record = found.record
            asked = dict(record.networking.endpoints_config or {})
            if asked.pop(network, None) is None:
                raise NotFound(f"container {found.id} is not connected to network {network}")
            endpoint = record.endpoints.pop(network, None)
            record.networking.endpoints_config = asked
            self._parts.store.save(found)
            if endpoint is not None:
                await self._parts.network.unplug(endpoint, now=True)
                (found.folder / "hosts").write_text(hosts_text(self._parts, record))
