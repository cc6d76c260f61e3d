"""Registry authentication: credentials of the client and WWW-Authenticate challenges. Pure.

Token flow: https://distribution.github.io/distribution/spec/auth/token/.
Challenges: RFC 9110, section 11.6.1.
"""

import base64
import binascii
import re
from dataclasses import dataclass

import msgspec

from longshore.errors import InvalidArgument

_PARAMETER = re.compile(r'([a-zA-Z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,\s*|$)')


class Credentials(msgspec.Struct, frozen=True):
    """As the docker CLI sends them in X-Registry-Auth; `identitytoken` is an OAuth2 refresh token."""

    username: str = ""
    password: str = ""
    identitytoken: str = ""
    registrytoken: str = ""
    serveraddress: str = ""

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
    """X-Registry-Auth: base64url JSON; empty or `{}` is no credentials. Raises InvalidArgument."""
    if not text:
        return None
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        credentials = msgspec.json.decode(data, type=Credentials)
    except (msgspec.MsgspecError, binascii.Error, ValueError) as cause:
        raise InvalidArgument("invalid X-Registry-Auth header", detail=str(cause)) from cause
    filled = credentials.username or credentials.identitytoken or credentials.registrytoken
    return credentials if filled else None
