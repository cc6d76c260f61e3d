"""Messages of the services that a client offers on its session. Names and numbers are the protocol's."""

from dataclasses import dataclass

from longshore.api.buildkit.wire import Message, integer, message, raw, raw_map, text, text_map, texts

# moby.filesync.v1.FileSync: the packets of https://github.com/tonistiigi/fsutil

STAT, REQ, DATA, FIN, ERR = 0, 1, 2, 3, 4


@dataclass(slots=True)
class Stat(Message):
    path: str = text(1)
    mode: int = integer(2)  # Go's os.FileMode
    uid: int = integer(3)
    gid: int = integer(4)
    size: int = integer(5)
    mod_time: int = integer(6)  # nanoseconds since 1970
    linkname: str = text(7)
    devmajor: int = integer(8)
    devminor: int = integer(9)
    xattrs: dict[str, bytes] = raw_map(10)


@dataclass(slots=True)
class Packet(Message):
    type: int = integer(1)
    stat: Stat | None = message(2, Stat)
    id: int = integer(3)
    data: bytes = raw(4)


# moby.buildkit.secrets.v1.Secrets


@dataclass(slots=True)
class GetSecretRequest(Message):
    id: str = text(1)
    annotations: dict[str, str] = text_map(2)


@dataclass(slots=True)
class GetSecretResponse(Message):
    data: bytes = raw(1)


# moby.sshforward.v1.SSH


@dataclass(slots=True)
class CheckAgentRequest(Message):
    id: str = text(1)


# moby.filesync.v1.Auth


@dataclass(slots=True)
class CredentialsRequest(Message):
    host: str = text(1)


@dataclass(slots=True)
class CredentialsResponse(Message):
    username: str = text(1)
    secret: str = text(2)


@dataclass(slots=True)
class FetchTokenRequest(Message):
    client_id: str = text(1)
    host: str = text(2)
    realm: str = text(3)
    service: str = text(4)
    scopes: list[str] = texts(5)


@dataclass(slots=True)
class FetchTokenResponse(Message):
    token: str = text(1)
    expires_in: int = integer(2)
    issued_at: int = integer(3)
