"""Mirrors of Docker Hub, against HTTP servers that know no image."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from longshore.errors import EngineError, InvalidArgument, NotFound, Unauthorized, Unavailable
from longshore.oci.reference import parse_reference
from longshore.registry.auth import Credentials
from longshore.registry.client import RegistryClient
from longshore.registry.hosts import HUB, Mirror, RegistryRules, may_be_plain, parse_mirror


@dataclass
class Server:
    """Wants a login, and then has nothing. Notes the path and the credentials of each request."""

    address: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def serve(server: Server) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            login = self.headers.get("Authorization", "")
            server.asked.append((self.path, login))
            self.send_response(404 if login else 401)
            self.send_header("WWW-Authenticate", 'Basic realm="here"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    return http


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """(mirror, Docker Hub)"""
    mirror, hub = Server(), Server()
    running = [serve(mirror), serve(hub)]
    yield mirror, hub
    for http in running:
        http.shutdown()
        http.server_close()


async def pull(name: str, *mirrors: Mirror, hub: str = HUB, auth: Credentials | None = None) -> EngineError:
    registry = RegistryClient(RegistryRules(insecure=("docker.io",), mirrors=mirrors, hub=hub))
    with pytest.raises(EngineError) as caught:
        await registry.pull(
            parse_reference(name).with_default_tag(), auth=auth, sink=None, progress=lambda event: None
        )  # type: ignore[arg-type]
    return caught.value


async def test_attack_21_mirrors_come_first_and_get_no_credentials(servers: tuple[Server, Server]) -> None:
    """Fails when the login for a registry is sent to its mirror."""
    mirror, hub = servers
    login = Credentials(username="me", password="secret")
    failure = await pull("app", Mirror("http", mirror.address, "/hub"), hub=hub.address, auth=login)
    assert mirror.asked == [("/hub/v2/library/app/manifests/latest", "")]
    assert [given for _, given in hub.asked] == ["", login.basic]
    assert isinstance(failure, NotFound)
    assert str(failure).startswith("manifest for app:latest not found")


async def test_other_registries_have_no_mirrors(servers: tuple[Server, Server]) -> None:
    mirror, hub = servers
    failure = await pull(f"{hub.address}/app", Mirror("http", mirror.address))
    assert isinstance(failure, Unauthorized)
    assert mirror.asked == []
    assert hub.asked == [("/v2/app/manifests/latest", "")]


async def test_a_mirror_that_is_away_does_no_harm(servers: tuple[Server, Server]) -> None:
    mirror, hub = servers
    await pull("app", Mirror("http", "127.0.0.1:1"), Mirror("http", mirror.address), hub=hub.address)
    assert len(mirror.asked) == 1
    assert len(hub.asked) == 1


async def test_a_failure_names_the_image_and_the_registry() -> None:
    failure = await pull("nosuch", hub="127.0.0.1:1")
    assert isinstance(failure, Unavailable)
    assert str(failure).startswith("failed to fetch docker.io/library/nosuch:latest from 127.0.0.1:1: ")


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("https://mirror.example", Mirror("https", "mirror.example")),
        ("https://mirror.example:5000/hub/", Mirror("https", "mirror.example:5000", "/hub")),
        ("http://127.0.0.1:5000", Mirror("http", "127.0.0.1:5000")),
        ("http://plain:5000/", Mirror("http", "plain:5000")),
    ],
)
def test_mirrors_are_urls(text: str, mirror: Mirror) -> None:
    assert parse_mirror(text, ["plain"]) == mirror


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mirror.example", "write it like https://"),
        ("ftp://mirror.example", "write it like https://"),
        ("https://", "write it like https://"),
        ("https://mirror.example:x", "invalid registry mirror"),
        ("https://me:secret@mirror.example", "only host, port and path count"),
        ("https://mirror.example/?a", "only host, port and path count"),
        ("http://mirror.example", "use https, or add mirror.example to insecure-registries"),
    ],
)
def test_bad_mirrors_are_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_mirror(text, [])
    assert words in str(caught.value)


def test_plain_hosts() -> None:
    plain = ("localhost:1", "127.9.9.9", "[::1]:5", "a:1", "b", "10.0.0.1")
    assert [may_be_plain(name, ["a:1", "b"]) for name in plain] == [True] * 5 + [False]
    assert may_be_plain("10.0.0.1:5000", ["10.0.0.0/8"])
    assert not may_be_plain("11.0.0.1:5000", ["10.0.0.0/8", "nonsense/8"])
