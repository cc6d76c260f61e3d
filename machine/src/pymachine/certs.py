"""Certificates for the engine's TCP socket: an authority for each store, a server certificate for each machine.

Keys are ECDSA P-256: made in a millisecond and understood by every TLS 1.2 client. Server and client
certificates carry only their own extended key usage, so neither can play the other.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pymachine.errors import StoreError
from pymachine.files import make_private, write_atomic

AUTHORITY_DAYS = 3650
LEAF_DAYS = 1080  # docker-machine's
_RENEW_DAYS = 30
_CLOCK_SKEW = datetime.timedelta(days=1)  # a new VM's clock may be behind ours


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes


def make_authority(name: str) -> Pair:
    """A self-signed authority that may sign leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    builder = _builder(subject, subject, key.public_key(), AUTHORITY_DAYS)
    usage = _usage(sign=True)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_server(authority: Pair, name: str, addresses: Sequence[str]) -> Pair:
    """A server certificate valid for `addresses`, host names and IP addresses alike."""
    names = [_general_name(address) for address in dict.fromkeys(addresses)]
    return _leaf(authority, name, ExtendedKeyUsageOID.SERVER_AUTH, names)


def make_client(authority: Pair, name: str) -> Pair:
    """A client certificate."""
    return _leaf(authority, name, ExtendedKeyUsageOID.CLIENT_AUTH, [])


def covers(authority: bytes, certificate: bytes, addresses: Sequence[str]) -> bool:
    """Is the server certificate signed by that authority, valid for all addresses and not about to end?"""
    try:
        leaf = x509.load_pem_x509_certificate(certificate)
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    renew = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=_RENEW_DAYS)
    return leaf.not_valid_after_utc > renew and all(_general_name(address) in names for address in addresses)


def belong_together(certificate: bytes, key: bytes) -> bool:
    """Is `key` the private half of the certificate? A crash between writing the two shows here."""
    try:
        private = serialization.load_pem_private_key(key, password=None)
        return private.public_key() == x509.load_pem_x509_certificate(certificate).public_key()
    except (ValueError, TypeError):
        return False


def ensure_authority(folder: Path, name: str) -> Pair:
    """The store's authority and client files in `folder`, made when missing. The certificates' lock must be held."""
    make_private(folder)
    certificate, key = folder / "ca.pem", folder / "ca-key.pem"
    if not certificate.exists() or not key.exists():
        if (
            certificate.exists()
        ):  # machines already trust it; a new authority would lock everybody out silently
            raise StoreError(
                f"{certificate} exists but {key.name} is missing",
                hint="restore the key, or remove the certificate and run 'pymachine regenerate-certs'",
            )
        pair = make_authority(f"pymachine authority of {name}")
        write_atomic(key, pair.key)  # the key first: the certificate is what says that both exist
        write_atomic(certificate, pair.certificate, 0o644)
    authority = Pair(_read(certificate), _read(key))
    if not (folder / "cert.pem").exists() or not (folder / "key.pem").exists():
        write_client(folder, authority, name)
    return authority


def write_client(folder: Path, authority: Pair, name: str) -> None:
    """Make a new client certificate in `folder`."""
    client = make_client(authority, f"pymachine client {name}")
    write_atomic(folder / "key.pem", client.key)
    write_atomic(folder / "cert.pem", client.certificate, 0o644)


def _leaf(authority: Pair, name: str, usage: x509.ObjectIdentifier, names: list[x509.GeneralName]) -> Pair:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise StoreError("the store's authority key is not an ECDSA key")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(name), issuer.subject, key.public_key(), LEAF_DAYS)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    return _pair(builder.sign(issuer_key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    # ub-common-name is 64 (RFC 5280, appendix A)
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "pymachine"),
            x509.NameAttribute(NameOID.COMMON_NAME, text[:64]),
        ]
    )


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as cause:
        raise StoreError(f"cannot read {path}", detail=cause.strerror or "") from cause
