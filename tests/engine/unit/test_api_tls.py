"""Mutual TLS with half-close: certificates are made here, the server is ours, the client is the standard library's."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from longshore.api.http import AnyReply, ClientStream, Hijack, Reply, Request, Route
from longshore.api.server import Api, Server
from longshore.api.tls import certificate_names


@dataclass(frozen=True)
class Certificates:
    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def client(self, name: str = "client") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.path("ca.pem"))
        if name:
            context.load_cert_chain(self.path(f"{name}.pem"), self.path(f"{name}-key.pem"))
        return context


def make_certificate(
    folder: Path, name: str, issuer: tuple[Any, Any] | None, names: list[str]
) -> tuple[Any, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            # Python 3.13 verifies with VERIFY_X509_STRICT, which wants this and the key usage of an authority.
            x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer[1] if issuer else key).public_key()),
            critical=False,
        )
    )
    if issuer is None:
        builder = builder.add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
        )
    if names:
        alternatives = [x509.DNSName(each) for each in names] + [x509.IPAddress(ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    certificate = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}-key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    authority = make_certificate(folder, "ca", None, [])
    make_certificate(folder, "server", authority, ["web1.example", "*.apps.example"])
    make_certificate(folder, "client", authority, [])
    stranger = make_certificate(folder, "other-ca", None, [])
    make_certificate(folder, "stranger", stranger, [])
    return Certificates(folder)


@pytest_asyncio.fixture
async def port(certificates: Certificates) -> AsyncIterator[int]:
    async def ping(request: Request) -> AnyReply:
        return Reply(body=b"OK")

    async def echo(request: Request) -> AnyReply:
        async def serve(client: ClientStream) -> None:
            while data := await client.read():
                await client.write(data)
            await client.write(b"<end>")

        return Hijack(serve)

    server = Server(Api(cast(Any, None), [Route("GET", "/_ping", ping), Route("POST", "/echo", echo)]))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    await server.listen_tls(
        sock,
        certificates.path("ca.pem"),
        certificates.path("server.pem"),
        certificates.path("server-key.pem"),
    )
    yield sock.getsockname()[1]
    await server.close()


def request(port: int, context: ssl.SSLContext, *lines: str) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall("\r\n".join((*lines, "", "")).encode())
        data = b""
        while piece := sock.recv(65536):
            data += piece
        return data


async def test_a_client_with_a_certificate_is_served(certificates: Certificates, port: int) -> None:
    lines = ("GET /_ping HTTP/1.1", "Host: 127.0.0.1", "Connection: close")
    reply = await asyncio.to_thread(request, port, certificates.client(), *lines)
    assert reply.startswith(b"HTTP/1.1 200")
    assert reply.endswith(b"OK")


@pytest.mark.parametrize("name", ["", "stranger"])
async def test_attack_11_other_clients_are_refused(certificates: Certificates, port: int, name: str) -> None:
    """Fails when the server does not ask for a certificate of its own authority."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.to_thread(
            request,
            port,
            certificates.client(name),
            "GET /_ping HTTP/1.1",
            "Host: 127.0.0.1",
            "Connection: close",
        )


async def test_attack_11_a_foreign_host_name_is_refused(certificates: Certificates, port: int) -> None:
    """Fails when the Host header is not looked at."""
    lines = ("GET /_ping HTTP/1.1", "Host: evil.example", "Connection: close")
    reply = await asyncio.to_thread(request, port, certificates.client(), *lines)
    assert reply.startswith(b"HTTP/1.1 403")


async def test_output_still_comes_after_the_end_of_input(certificates: Certificates, port: int) -> None:
    """The client says close_notify and then reads on, as Go's CloseWrite does."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def flush() -> None:
        writer.write(outgoing.read())
        await writer.drain()

    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            await flush()
            incoming.write(await reader.read(65536))
    client.write(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\nhello")
    await flush()
    with pytest.raises(ssl.SSLWantReadError):
        client.unwrap()
    await flush()
    received = b""
    async with asyncio.timeout(5):
        while not received.endswith(b"hello<end>"):
            data = await reader.read(65536)
            assert data, received
            incoming.write(data)
            try:
                while piece := client.read(65536):
                    received += piece
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                pass  # the next record is not complete yet, or the server has said all
    writer.close()


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("web1.example", True),
        ("WEB1.example", True),
        ("x.apps.example", True),
        ("web2.example", False),
        ("eb1.example", False),
        ("example", False),
        ("", False),
    ],
)
def test_the_certificates_names_are_known(certificates: Certificates, name: str, known: bool) -> None:
    assert (name in certificate_names(certificates.path("server.pem"))) is known
