"""Registry authentication: credentials of the client and WWW-Authenticate challenges. Pure.

Token flow: https://distribution.github.io/distribution/spec/auth/token/.
Challenges: RFC 9110, section 11.6.1.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from longshore.errors import InvalidArgument

T = TypeVar("T")

_PARAMETER = re.compile(r'([a-zA-Z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,\s*|$)')


class Credentials(msgspec.Struct, frozen=True):
    """A login for one registry. `identity_token` is an OAuth2 refresh token, `registry_token` a bearer token."""

    username: str = ""
    password: str = ""
    identity_token: str = msgspec.field(default="", name="identitytoken")
    registry_token: str = msgspec.field(default="", name="registrytoken")
    server_address: str = msgspec.field(default="", name="serveraddress")
    auth: str = ""  # base64 of user:password, as config.json has it

    @property
    def login(self) -> "Credentials | None":
        """With `auth` taken apart; None without anything to log in with. Raises InvalidArgument."""
        found = self
        if self.auth and not self.username:
            try:
                name, _, password = base64.b64decode(self.auth, validate=True).decode().partition(":")
            except ValueError as cause:
                raise InvalidArgument("invalid registry login", detail="field auth") from cause
            found = msgspec.structs.replace(self, username=name, password=password, auth="")
        return found if found.username or found.identity_token or found.registry_token else None

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str  # lower case: "bearer" or "basic"
    parameters: dict[str, str]


def parse_challenge(header: str) -> Challenge:
    """`Bearer realm="…",service="…",scope="…"`. Raises InvalidArgument for what is none."""
    scheme, _, rest = header.strip().partition(" ")
    parameters: dict[str, str] = {}
    position = 0
    while position < len(rest):
        match = _PARAMETER.match(rest, position)
        if match is None:
            break
        value = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
        parameters[match[1].lower()] = value
        position = match.end()
    if not scheme:
        raise InvalidArgument("the registry sent an empty authentication challenge")
    return Challenge(scheme.lower(), parameters)


def decode_auth_header(text: str) -> Credentials | None:
    """X-Registry-Auth: base64url JSON; empty or `{}` is no login. Raises InvalidArgument."""
    credentials = _decode(text, Credentials, "X-Registry-Auth")
    return credentials.login


def decode_auth_config(text: str) -> dict[str, Credentials]:
    """X-Registry-Config: base64url JSON of {registry: login}, by registry domain. Raises InvalidArgument."""
    found = _decode(text, dict[str, Credentials], "X-Registry-Config")
    logins = {_HUB.get(name, name): value.login for name, value in found.items()}
    return {name: login for name, login in logins.items() if login is not None}


_HUB = {"https://index.docker.io/v1/": "docker.io"}  # the name that config.json gives Docker Hub


def _decode(text: str, kind: type[T], header: str) -> T:
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        # Go encodes a map that was never made as null.
        return msgspec.json.decode(b"{}" if data.strip() in (b"", b"null") else data, type=kind)
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as cause:
        raise InvalidArgument(f"invalid {header} header", detail=str(cause)) from cause
