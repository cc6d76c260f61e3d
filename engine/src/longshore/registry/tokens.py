"""Bearer tokens: what to ask a token service, and what it answers. Pure.

https://distribution.github.io/distribution/spec/auth/token/ (GET) and …/spec/auth/oauth/ (POST, for refresh tokens).
"""

from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec
from yarl import URL

from longshore.errors import InvalidArgument
from longshore.registry.auth import Credentials

CLIENT_ID = "longshore"
MAX_TOKEN = 1 << 20


@dataclass(frozen=True, slots=True)
class TokenRequest:
    method: str
    url: URL
    authorization: str = ""
    body: bytes = b""  # of a form


class _TokenReply(msgspec.Struct):
    token: str = ""
    access_token: str = ""


def plan_token_request(realm: URL, parameters: dict[str, str], login: Credentials | None) -> TokenRequest:
    """A refresh token goes into a form, never into a URL; name and password into a header; else anonymous."""
    asked = {key: parameters[key] for key in ("service", "scope") if parameters.get(key)}
    if login and login.identity_token:
        form = {
            "grant_type": "refresh_token",
            "client_id": CLIENT_ID,
            "refresh_token": login.identity_token,
        }
        return TokenRequest("POST", realm, body=urlencode(form | asked).encode())
    scopes = asked.pop("scope", "").split(" ")
    query = [*asked.items(), *(("scope", scope) for scope in scopes if scope)]
    if login and login.username:
        query.append(("account", login.username))
    separator = "&" if realm.query_string else "?"
    url = URL(f"{realm}{separator if query else ''}{urlencode(query)}", encoded=True)
    return TokenRequest("GET", url, login.basic if login and login.username else "")


def parse_token(data: bytes, registry: str) -> str:
    """Raises InvalidArgument for what holds none, and for what would break the header it goes into."""
    try:
        reply = msgspec.json.decode(data, type=_TokenReply)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as cause:
        raise InvalidArgument(f"the token service of {registry} sent nonsense", detail=str(cause)) from cause
    token = reply.token or reply.access_token
    if not token or not token.isascii() or not token.isprintable():
        raise InvalidArgument(f"the token service of {registry} sent nonsense", detail="it holds no token")
    return token
