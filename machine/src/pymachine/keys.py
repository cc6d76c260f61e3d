"""SSH keys and pinned host keys: pure values and the text formats of OpenSSH (sshd(8), ssh-keygen(1))."""

import base64
import binascii
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from pymachine.errors import InvalidInput, StoreError
from pymachine.files import write_atomic

SSH_PORT = 22
_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


@dataclass(frozen=True, slots=True)
class HostKey:
    """A public host key: its kind and the base64 blob, as in known_hosts."""

    kind: str
    blob: str

    def __str__(self) -> str:
        return f"{self.kind} {self.blob}"

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        return fingerprint(base64.b64decode(self.blob))


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An ed25519 pair in OpenSSH's formats."""

    private: bytes
    public: str  # one line, no newline


def make_key_pair(comment: str) -> KeyPair:
    """A fresh pair without a passphrase."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private, f"{public.decode()} {comment}")


def fingerprint(blob: bytes) -> str:
    """SHA256:… of a public key's wire form."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def parse_host_keys(text: str) -> tuple[HostKey, ...]:
    """All keys in lines of a `.pub` file or of known_hosts; host names and comments are ignored."""
    found: list[HostKey] = []
    for line in text.splitlines():
        words = line.split()
        if line.lstrip().startswith(("#", "@")):  # comments; revoked and authority marks are not host keys
            continue
        for kind, blob in itertools.pairwise(words):
            if kind in _KINDS and _is_blob(kind, blob):
                found.append(HostKey(kind, blob))
                break
    return tuple(dict.fromkeys(found))


def read_host_keys(value: str) -> tuple[HostKey, ...]:
    """Keys from a flag that is either the key itself or a file. Raises InvalidInput."""
    keys = parse_host_keys(value)
    if keys:
        return keys
    try:
        keys = parse_host_keys(Path(value).expanduser().read_text(errors="replace"))
    except (OSError, ValueError) as cause:
        raise InvalidInput(
            f"{value!r} is neither a host key nor a readable file",
            hint="give 'ssh-ed25519 AAAA…' or a .pub file",
        ) from cause
    if not keys:
        raise InvalidInput(f"{value} holds no SSH host key", hint="give 'ssh-ed25519 AAAA…' or a .pub file")
    return keys


def host_pattern(address: str, port: int) -> str:
    """A host's name in known_hosts."""
    return address if port == SSH_PORT else f"[{address}]:{port}"


def known_hosts_text(names: Iterable[str], keys: Iterable[HostKey]) -> str:
    """The contents of a machine's own known_hosts."""
    hosts = ",".join(dict.fromkeys(names))
    return "".join(f"{hosts} {key}\n" for key in keys)


def write_known_hosts(path: Path, machine: str, address: str, port: int, keys: Sequence[HostKey]) -> None:
    """Pin `keys`. The machine's name stands there too: the ssh client is told to look it up (HostKeyAlias)."""
    write_atomic(path, known_hosts_text([machine, host_pattern(address, port)], keys))


def pinned(path: Path) -> tuple[HostKey, ...]:
    """The keys of a machine's known_hosts, empty when it has none yet."""
    try:
        return parse_host_keys(path.read_text(errors="replace"))
    except FileNotFoundError:
        return ()
    except OSError as cause:
        raise StoreError(f"cannot read {path}", detail=cause.strerror or "") from cause


def _is_blob(kind: str, blob: str) -> bool:
    try:
        raw = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return False
    length = int.from_bytes(raw[:4], "big")
    return raw[4 : 4 + length] == kind.encode()  # the blob repeats its kind (RFC 4253, section 6.6)
