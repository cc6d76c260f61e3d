"""A machine of its own for each network test: a thread in a fresh network namespace runs the manager, further
namespaces stand for containers and for a neighbour on the wire. Nothing of the real host's network is touched.

Network namespaces belong to threads, and threads and processes started from a thread inherit its namespace; sockets
keep the one they were made in. So no fork is needed, and everything goes away with the last descriptor.
"""

import asyncio
import contextlib
import ctypes
import os
import re
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, TypeVar

import pytest

from longshore.kernel import netlink
from longshore.kernel.netlink import NetlinkSocket
from longshore.network.manager import (
    Endpoint,
    EndpointRequest,
    NetworkManager,
    NetworkSettings,
    PortMapping,
)

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
HOST, NEIGHBOUR = "198.51.100.1", "198.51.100.2"
_libc = ctypes.CDLL(None, use_errno=True)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _in_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _unshare() -> None:
    if _libc.unshare(CLONE_NEWNET) == -1:
        raise OSError(ctypes.get_errno(), "unshare")


def isolated(test: Callable[[], Awaitable[None]]) -> None:
    """Run the coroutine function on a machine without any network but loopback."""

    def run() -> None:
        _unshare()
        with NetlinkSocket() as route:
            route.perform(netlink.set_up(1))
        asyncio.run(test())  # type: ignore[arg-type]

    _in_thread(run)


@dataclass
class Space:
    """One more network namespace, as long as it is not closed."""

    fd: int
    netlink: socket.socket
    sockets: list[socket.socket] = field(default_factory=list)

    @classmethod
    def create(cls) -> "Space":
        def make() -> "Space":
            _unshare()
            route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
            return cls(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), route)

        return _in_thread(make)

    def run(self, work: Callable[[], T]) -> T:
        """In a thread that is inside."""

        def enter() -> T:
            if _libc.setns(self.fd, CLONE_NEWNET) == -1:
                raise OSError(ctypes.get_errno(), "setns")
            return work()

        return _in_thread(enter)

    def socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        return self.run(lambda: socket.socket(socket.AF_INET, kind))

    def command(self, *argv: str) -> str:
        return self.run(lambda: command(*argv))

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.netlink.close()
        with contextlib.suppress(OSError):
            os.close(self.fd)


def command(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def neighbour() -> Iterator[Space]:
    """Another machine on our wire, and our default route by way of it."""
    space = Space.create()
    try:
        with NetlinkSocket() as route:
            veth = netlink.new_veth(
                "wire0", master=0, mtu=1400, peer="wire0", peer_mac="02:00:00:00:00:02", netns_fd=space.fd
            )
            route.perform(veth)
            index = netlink.link_index(route, "wire0")
            route.perform(netlink.new_address(index, IPv4Interface(f"{HOST}/24")))
            with NetlinkSocket(fd=space.netlink.fileno()) as inside:
                netlink.configure_inside(inside, "wire0", IPv4Interface(f"{NEIGHBOUR}/24"), "")
            route.perform(netlink.new_default_route(IPv4Address(NEIGHBOUR), index))
        yield space
    finally:
        space.close()


class Server:
    """Answers each TCP connection with its name and the client's address, in a thread."""

    def __init__(self, name: str, space: Space | None, port: int, address: str = "0.0.0.0") -> None:
        self.name = name
        self.listener = space.socket() if space else socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((address, port))
        self.listener.listen(128)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, peer = self.listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.sendall(f"{self.name} {peer[0]}".encode())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


async def ask(address: str, port: int, space: Space | None = None, timeout: float = 0.7) -> str:
    """What the server says; "" when nothing answers."""
    sock = space.socket() if space else socket.socket()
    with sock:
        sock.settimeout(timeout)

        def talk() -> str:
            try:
                sock.connect((address, port))
                return sock.recv(100).decode()
            except OSError:
                return ""

        return await asyncio.to_thread(talk)


@dataclass
class Container:
    space: Space
    endpoint: Endpoint
    server: Server | None = None

    def close(self) -> None:
        if self.server:
            self.server.close()
        self.space.close()


@dataclass
class Machine:
    manager: NetworkManager
    containers: list[Container] = field(default_factory=list)

    async def start(self, name: str, *ports: PortMapping, serve: int = 80, **request: Any) -> Container:
        endpoint = self.manager.allocate(EndpointRequest(name * 4, ports=ports, name=name, **request))
        space = Space.create()
        await self.manager.plug(endpoint, space.fd, space.netlink.fileno())
        container = Container(space, endpoint, Server(name, space, serve) if serve else None)
        self.containers.append(container)
        return container

    async def stop(self, container: Container) -> None:
        container.close()
        await self.manager.unplug(container.endpoint)


@asynccontextmanager
async def machine(settings: NetworkSettings | None = None) -> AsyncIterator[Machine]:
    """A manager at work; everything is removed at the end."""
    manager = NetworkManager(settings or NetworkSettings())
    await manager.setup()
    await manager.restore([])
    made = Machine(manager)
    try:
        yield made
    finally:
        for container in made.containers:
            container.close()
        await manager.close(remove=True)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float) -> float:
    """Seconds until the condition holds; fails after `seconds`."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not await condition():
        assert loop.time() - began < seconds, f"not within {seconds} s"
        await asyncio.sleep(0.02)
    return loop.time() - began


def state() -> tuple[str, ...]:
    """Links, addresses, routes and rules of this thread's machine."""
    links = [line.split(":")[1] for line in command("ip", "-o", "link").splitlines()]
    return (
        *sorted(links),
        command("ip", "-4", "-o", "addr"),
        command("ip", "-4", "route"),
        re.sub(r"packets \d+ bytes \d+", "", command("nft", "list", "ruleset")),
    )
