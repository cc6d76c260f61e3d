"""Bearer tokens: those of a token service elsewhere, and our own small service.

https://distribution.github.io/distribution/spec/auth/token/ and …/jwt/; RFC 7515, 7517, 7519.
"""

import base64
import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import jwt
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from longshore.errors import InvalidArgument
from longshore.registry.server.access import (
    Needed,
    Principal,
    judge_by_rules,
    parse_basic,
    quoted,
)
from longshore.registry.server.htpasswd import Passwords
from longshore.registry.server.refusals import Code, Refused
from longshore.registry.server.settings import Rule, Token, TokenService

LEEWAY = 60  # seconds by which clocks may differ, as in distribution
_MAX_TOKEN = 64 << 10
_MAX_SCOPES = 64
_ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)


class TrustedKeys:
    """The public keys whose signatures count, by key id, and the certificates that may vouch for others."""

    def __init__(self, keys: Mapping[str, Any], roots: Sequence[x509.Certificate] = ()) -> None:
        self._keys, self._roots = dict(keys), list(roots)

    def candidates(self, header: Mapping[str, Any]) -> Iterable[Any]:
        """Keys that may have signed a token with this header. Raises Refused for a chain that leads nowhere."""
        kid = header.get("kid")
        if isinstance(kid, str) and kid in self._keys:
            return [self._keys[kid]]
        chain = header.get("x5c")
        if isinstance(chain, list) and chain:
            return [self._vouched(cast("list[Any]", chain))]
        if kid is None:
            return list(self._keys.values())[:10]
        return []

    def _vouched(self, chain: list[Any]) -> Any:
        """The key of a chain's first certificate, if it ends at one of ours."""
        try:
            certificates = [x509.load_der_x509_certificate(base64.b64decode(str(each))) for each in chain[:5]]
            now = datetime.now(UTC)
            for place, certificate in enumerate(certificates):
                if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                    break
                if certificate in self._roots or any(_issued(certificate, root) for root in self._roots):
                    return certificates[0].public_key()
                if place + 1 == len(certificates) or not _issued(certificate, certificates[place + 1]):
                    break
        except ValueError as cause:
            raise Refused(Code.UNAUTHORIZED, "the token's certificates cannot be read") from cause
        raise Refused(Code.UNAUTHORIZED, "nobody we trust vouches for the token's certificate")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer signed it and may do so."""
    try:
        certificate.verify_directly_issued_by(issuer)
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints)
        return constraints.value.ca
    except Exception:  # cryptography's: InvalidSignature, ValueError, TypeError, ExtensionNotFound
        return False


def load_keys(settings: Token) -> TrustedKeys:
    """Of rootcertbundle (PEM) and jwks. Raises InvalidArgument."""
    keys: dict[str, Any] = {}
    roots: list[x509.Certificate] = []
    try:
        if settings.rootcertbundle:
            roots = x509.load_pem_x509_certificates(Path(settings.rootcertbundle).read_bytes())
            for certificate in roots:
                key: Any = certificate.public_key()
                keys[fingerprint(key)] = key
        if settings.jwks:
            for each in jwt.PyJWKSet.from_json(Path(settings.jwks).read_text()).keys:
                keys[each.key_id or f"jwks-{len(keys)}"] = each.key
    except (OSError, ValueError, jwt.PyJWTError) as cause:
        raise InvalidArgument("cannot use the keys of auth.token", detail=str(cause)) from cause
    if not keys:
        raise InvalidArgument("auth.token has no key in rootcertbundle or jwks")
    return TrustedKeys(keys, roots)


def fingerprint(key: Any) -> str:
    """A key's id as distribution makes it: 30 bytes of the SHA-256 of its DER, in base32, twelve groups of four."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(text[start : start + 4] for start in range(0, len(text), 4))


class TokenAuthority:
    """access.Authority of tokens. `realm` "": our own service, at the address that the client used."""

    def __init__(
        self, keys: TrustedKeys, *, issuer: str, service: str, realm: str, algorithms: Iterable[str]
    ) -> None:
        """Raises InvalidArgument for algorithms that are none or whose key would be a shared secret."""
        self._algorithms = list(algorithms)
        if unknown := set(self._algorithms) - _ASYMMETRIC:
            raise InvalidArgument(
                f"unknown signing algorithm {sorted(unknown)[0]!r}", hint=", ".join(sorted(_ASYMMETRIC))
            )
        self._keys, self._issuer, self._service, self._realm = keys, issuer, service, realm

    async def identify(self, authorization: str) -> Principal:
        if not authorization:
            return Principal("", lambda kind, name, action: False)
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or len(token) > _MAX_TOKEN:
            raise Refused(Code.UNAUTHORIZED, "a bearer token is wanted")
        claims = self._verified(token.strip())
        grants = _grants(claims.get("access"))

        def judge(kind: str, name: str, action: str) -> bool:
            actions = grants.get((kind, name), frozenset[str]())
            return (kind, name) == ("registry", "base") or action in actions or "*" in actions

        return Principal(str(claims.get("sub") or ""), judge)

    def _verified(self, token: str) -> dict[str, Any]:
        reason = "no key of ours has signed the token"
        try:
            header = jwt.get_unverified_header(token)
            for key in self._keys.candidates(header):
                try:
                    return jwt.decode(
                        token,
                        key,
                        algorithms=self._algorithms,
                        issuer=self._issuer,
                        audience=self._service,
                        leeway=LEEWAY,
                        options={"require": ["exp", "iss", "aud"]},
                    )
                except (jwt.PyJWTError, TypeError, ValueError) as error:
                    reason = str(error)
        except jwt.PyJWTError as cause:
            raise Refused(Code.UNAUTHORIZED, f"the token cannot be read: {cause}") from cause
        raise Refused(Code.UNAUTHORIZED, reason)

    def challenge(self, host: str, needed: Needed | None, error: str = "") -> str:
        parameters = {"realm": self._realm or f"{host}/auth/token", "service": self._service}
        if needed is not None:
            parameters["scope"] = needed.scope
        if error:
            parameters["error"] = error
        return f"Bearer {quoted(parameters)}"


def _grants(access: object) -> dict[tuple[str, str], frozenset[str]]:
    """{(type, name): actions} of a token's `access` claim; what is malformed grants nothing."""
    grants: dict[tuple[str, str], frozenset[str]] = {}
    for entry in cast("list[Any]", access) if isinstance(access, list) else []:
        if isinstance(entry, dict):
            one = cast("dict[str, Any]", entry)
            actions = one.get("actions")
            if isinstance(actions, list):
                key = str(one.get("type")), str(one.get("name"))
                grants[key] = grants.get(key, frozenset()) | {
                    str(each) for each in cast("list[Any]", actions)
                }
    return grants


class TokenIssuer:
    """GET /auth/token: tokens for the users of an htpasswd file, for what the rules let them do."""

    def __init__(
        self, settings: TokenService, passwords: Passwords, rules: Sequence[Rule], root: Path
    ) -> None:
        self._settings, self._passwords, self._rules = settings, passwords, rules
        self._key = _own_key(root / "token-key.pem")
        self._kid = fingerprint(self._key.public_key())

    @property
    def authority(self) -> TokenAuthority:
        keys = TrustedKeys({self._kid: self._key.public_key()})
        own = self._settings
        return TokenAuthority(
            keys, issuer=own.issuer, service=own.service, realm=own.realm, algorithms=["ES256"]
        )

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """A token for what was asked and may be had; asking for more than that is no error."""
        if request.method != "GET":
            raise Refused(Code.UNSUPPORTED, "only GET", headers={"Allow": "GET"})
        user = await self._user(request.headers.get("Authorization", ""))
        judge = judge_by_rules(user, self._rules)
        scopes = [word for text in request.rel_url.query.getall("scope", []) for word in text.split()]
        access: list[dict[str, Any]] = []
        for kind, name, actions in map(parse_scope, scopes[:_MAX_SCOPES]):
            allowed = [action for action in actions if judge(kind, name, action)]
            if allowed:
                access.append({"type": kind, "name": name, "actions": allowed})
        return web.json_response(self.issue(user, access))

    async def _user(self, authorization: str) -> str:
        login = parse_basic(authorization)
        if login and await self._passwords.check(*login):
            return login[0]
        may_pass = not authorization and not judge_by_rules("", self._rules)("registry", "base", "pull")
        if authorization or may_pass:
            challenge = f"Basic {quoted({'realm': self._settings.service})}"
            raise Refused(
                Code.UNAUTHORIZED, "unknown user or wrong password", headers={"WWW-Authenticate": challenge}
            )
        return ""

    def issue(self, user: str, access: list[dict[str, Any]]) -> dict[str, Any]:
        now, lifetime = int(time.time()), int(self._settings.expiration)
        claims = {
            "iss": self._settings.issuer,
            "sub": user,
            "aud": self._settings.service,
            "exp": now + lifetime,
            "nbf": now - 1,
            "iat": now,
            "jti": secrets.token_hex(16),
            "access": access,
        }
        token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._kid})
        issued = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"token": token, "access_token": token, "expires_in": lifetime, "issued_at": issued}


def parse_scope(text: str) -> tuple[str, str, list[str]]:
    """`repository:a/b:pull,push`; an action that is not there is granted to nobody."""
    kind, _, rest = text.partition(":")
    name, _, actions = rest.rpartition(":")
    return kind, name, [action for action in actions.split(",") if action]


def _own_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Made at the first start; tokens outlive a restart."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    except FileNotFoundError:
        pass
    except ValueError as cause:
        raise InvalidArgument(f"{path} is no key", hint="remove it: a new one is made") from cause
    key = ec.generate_private_key(ec.SECP256R1())
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    return key
