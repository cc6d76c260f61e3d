"""Registries with TLS: which authority counts, who gets our certificate, and what never travels in the clear."""

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.engine.fake_registry import Answer, Asked, FakeRegistry, running

from longshore.errors import InvalidArgument, Unavailable
from longshore.oci.reference import parse_reference
from longshore.registry.auth import Credentials
from longshore.registry.client import Described, RegistryClient
from longshore.registry.hosts import RegistryRules
from longshore.registry.patience import Patience

QUICK = Patience(attempts=1, silence=5, document=5)
LOGIN = Credentials(username="me", password="secret")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt, and for 127.0.0.1 and a client: NAME.crt and NAME.key, signed by it."""
    folder = tmp_path_factory.mktemp("tls")
    authority = ec.generate_private_key(ec.SECP256R1())
    for name in ("ca", "server", "client"):
        key = authority if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
        )
        if name == "server":
            here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            made = made.add_extension(x509.SubjectAlternativeName([here]), critical=False)
        signed = made.sign(authority, hashes.SHA256())
        (folder / f"{name}.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        pem, form, none = (
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (folder / f"{name}.key").write_bytes(key.private_bytes(pem, form, none))
    return folder


def server_side(certificates: Path, *, client: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    if client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "ca.crt")
    return context


@pytest.fixture
def registry(certificates: Path) -> Iterator[FakeRegistry]:
    with running(tls=server_side(certificates)) as registry:
        registry.image([(b"plain", b"packed")], "1")
        yield registry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the registries, whatever their ports: loopback counts as insecure unless a file says more."""
    path = tmp_path / "certs.d" / "_default"
    path.mkdir(parents=True)
    return path


async def describe(
    registry: FakeRegistry, folder: Path, *, auth: Credentials | None = None, insecure: tuple[str, ...] = ()
) -> Described:
    rules = RegistryRules(insecure=insecure, config_path=(str(folder.parent),))
    name = parse_reference(f"{registry.address}/app:1")
    return await RegistryClient(rules, patience=QUICK).describe(name, auth=auth)


def ask_by_tls(registry: FakeRegistry, folder: Path, text: str = "") -> None:
    """A hosts.toml names a scheme, and so ends the indulgence towards loopback."""
    (folder / "hosts.toml").write_text(f'server = "https://{registry.address}"\n{text}')


async def test_an_unknown_authority_is_refused(registry: FakeRegistry, folder: Path) -> None:
    ask_by_tls(registry, folder)
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await describe(registry, folder, auth=LOGIN)
    assert registry.asked == []


async def test_an_authority_of_the_file_counts(
    registry: FakeRegistry, folder: Path, certificates: Path
) -> None:
    ask_by_tls(registry, folder, f'ca = "{certificates}/ca.crt"')
    assert (await describe(registry, folder)).platforms


async def test_verification_is_skipped_only_when_told(registry: FakeRegistry, folder: Path) -> None:
    ask_by_tls(registry, folder, "skip_verify = true")
    assert (await describe(registry, folder)).platforms


async def test_insecure_means_any_certificate_or_none(registry: FakeRegistry, folder: Path) -> None:
    folder.rmdir()
    assert (await describe(registry, folder, insecure=("127.0.0.0/8",))).platforms
    with running() as plain:
        plain.image([(b"plain", b"packed")], "1")
        assert (await describe(plain, folder)).platforms


@pytest.mark.parametrize("layout", ["hosts.toml", "docker"])
async def test_a_client_certificate(certificates: Path, folder: Path, layout: str) -> None:
    with running(tls=server_side(certificates, client=True)) as registry:
        registry.image([(b"plain", b"packed")], "1")
        if layout == "docker":
            (folder / "ca.crt").write_bytes((certificates / "ca.crt").read_bytes())
        else:
            ask_by_tls(registry, folder, f'ca = "{certificates}/ca.crt"')
        with pytest.raises(Unavailable):
            await describe(registry, folder)
        if layout == "docker":
            (folder / "client.cert").write_bytes((certificates / "client.crt").read_bytes())
            (folder / "client.key").write_bytes((certificates / "client.key").read_bytes())
        else:
            pair = f'client = [["{certificates}/client.crt", "{certificates}/client.key"]]'
            ask_by_tls(registry, folder, f'ca = "{certificates}/ca.crt"\n{pair}')
        assert (await describe(registry, folder)).platforms


async def test_attack_21_a_redirect_never_leaves_tls(
    registry: FakeRegistry, folder: Path, certificates: Path
) -> None:
    """Fails when a registry with TLS can send us to a plain address."""
    ask_by_tls(registry, folder, f'ca = "{certificates}/ca.crt"')
    with running() as plain:
        plain.blobs = dict(registry.blobs)
        registry.first(
            9, "/blobs/", Answer(307, headers={"Location": f"http://{plain.address}/v2/app/blobs/x"})
        )
        with pytest.raises(InvalidArgument, match="redirects to an insecure address"):
            await describe(registry, folder, auth=LOGIN)
        assert plain.asked == []


async def test_attack_21_a_password_goes_to_a_token_service_by_tls_only(
    registry: FakeRegistry, folder: Path, certificates: Path
) -> None:
    """Fails when a registry with TLS can name a plain token service: the password would travel in the clear."""
    ask_by_tls(registry, folder, f'ca = "{certificates}/ca.crt"')
    with running() as plain:
        challenge = f'Bearer realm="http://{plain.address}/token",service="s"'

        def guard(asked: Asked) -> Answer | None:
            return None if asked.login else Answer(401, headers={"WWW-Authenticate": challenge})

        registry.faults.append(guard)
        with pytest.raises(InvalidArgument, match="insecure token service"):
            await describe(registry, folder, auth=LOGIN)
        assert plain.asked == []
