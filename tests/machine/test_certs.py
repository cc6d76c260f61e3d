"""Certificates: the chain, the names, and real TLS handshakes both ways."""

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from pymachine import certs
from pymachine.errors import StoreError

AUTHORITY = certs.make_authority("test")
SERVER = certs.make_server(AUTHORITY, "web1", ["10.0.0.7", "web1", "fd00::1", "localhost", "web1"])


def test_names_and_addresses_are_in_the_certificate() -> None:
    leaf = x509.load_pem_x509_certificate(SERVER.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["web1", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7", "fd00::1"]


@pytest.mark.parametrize(
    ("authority", "names", "good"),
    [
        (AUTHORITY, ["10.0.0.7"], True),
        (AUTHORITY, ["web1", "fd00::1"], True),
        (AUTHORITY, ["10.0.0.8"], False),
        (AUTHORITY, ["web"], False),
        (certs.make_authority("test"), ["10.0.0.7"], False),
    ],
)
def test_covers(authority: certs.Pair, names: list[str], good: bool) -> None:
    assert certs.covers(authority.certificate, SERVER.certificate, names) is good


def test_a_certificate_about_to_end_does_not_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certs, "LEAF_DAYS", 29)
    old = certs.make_server(AUTHORITY, "web1", ["web1"])
    assert not certs.covers(AUTHORITY.certificate, old.certificate, ["web1"])


def test_halves_of_two_pairs_do_not_belong_together() -> None:
    other = certs.make_server(AUTHORITY, "web1", ["web1"])
    assert certs.belong_together(SERVER.certificate, SERVER.key)
    assert not certs.belong_together(SERVER.certificate, other.key)
    assert not certs.belong_together(b"", SERVER.key)


def _handshake(folder: Path, server: certs.Pair, client: certs.Pair, *, name: str) -> str:
    """A real mutual TLS handshake with today's strict checks; "" when both sides are content."""
    files = {"s": server.certificate, "sk": server.key, "c": client.certificate, "ck": client.key,
             "ca": AUTHORITY.certificate}  # fmt: skip
    for file, data in files.items():
        (folder / file).write_bytes(data)
    ours = ssl.create_default_context(cafile=str(folder / "ca"))
    ours.verify_flags |= ssl.VERIFY_X509_STRICT
    ours.load_cert_chain(folder / "c", folder / "ck")
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca"))
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT
    theirs.verify_mode = ssl.CERT_REQUIRED
    theirs.load_cert_chain(folder / "s", folder / "sk")
    errors: list[str] = []
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            with theirs.wrap_socket(far, server_side=True) as peer:
                peer.send(b"x")
        except (ssl.SSLError, OSError) as error:
            errors.append(str(error))
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ours.wrap_socket(near, server_hostname=name) as peer:
            peer.recv(1)
    except (ssl.SSLError, OSError) as error:
        errors.append(str(error))
    thread.join(10)
    return "; ".join(errors)


def test_server_and_client_trust_each_other_and_nobody_else(tmp_path: Path) -> None:
    client = certs.make_client(AUTHORITY, "me")
    stranger = certs.make_client(certs.make_authority("test"), "me")
    assert _handshake(tmp_path, SERVER, client, name="10.0.0.7") == ""
    assert _handshake(tmp_path, SERVER, client, name="web1") == ""
    assert "not valid for '10.0.0.8'" in _handshake(tmp_path, SERVER, client, name="10.0.0.8")
    assert _handshake(tmp_path, SERVER, stranger, name="web1")
    assert "purpose" in _handshake(tmp_path, SERVER, SERVER, name="web1")  # a server cannot play a client
    assert "purpose" in _handshake(tmp_path, client, client, name="web1")


def test_the_stores_authority_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    first = certs.ensure_authority(folder, "me")
    assert certs.ensure_authority(folder, "me") == first
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca-key.pem": 0o600, "cert.pem": 0o644, "key.pem": 0o600}
    (folder / "ca-key.pem").unlink()
    with pytest.raises(StoreError, match="is missing"):
        certs.ensure_authority(folder, "me")
