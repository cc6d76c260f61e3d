"""Who may do what: htpasswd with rules, our token service, a token service elsewhere, TLS with client certificates."""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.engine.compat.registry_lab import USERS, Client, basic, encoded, htpasswd, serving, some_layers

from longshore.errors import InvalidArgument
from longshore.registry.auth import parse_challenge
from longshore.registry.server.tokens import fingerprint

RULES = [
    {"repositories": ["public/*"], "users": ["anonymous"], "actions": ["pull"]},
    {"repositories": ["*"], "users": ["ann"], "actions": ["*"]},
    {"repositories": ["bob/*", "public/*"], "users": ["bob"], "actions": ["pull", "push"]},
]


async def test_passwords(tmp_path: Path) -> None:
    users = {"htpasswd": {"path": str(htpasswd(tmp_path / "users")), "realm": 'a "realm"'}}
    async with serving(tmp_path / "data", {"auth": users}) as server, Client(server) as client:
        status, headers, body = await client("GET", "/v2/")
        assert status == 401 and headers["WWW-Authenticate"] == 'Basic realm="a realm"'
        assert json.loads(body)["errors"][0]["code"] == "UNAUTHORIZED"
        for login in ("Basic !!!", "Bearer x", encoded("ann", "no"),
                      encoded("eve", USERS["ann"])):  # fmt: skip
            assert (await client("GET", "/v2/", None, {"Authorization": login}))[0] == 401
        assert (await client("GET", "/v2/", None, basic("ann")))[0] == 200
        await client.push("any/where", "v1", some_layers(), basic("bob"))
        assert (await client("GET", "/v2/any/where/tags/list"))[0] == 401
        (tmp_path / "users").write_text("ann:" + (tmp_path / "users").read_text().partition("bob:")[2])
        assert (await client("GET", "/v2/", None, basic("bob")))[0] == 401, "bob was taken out of the file"


async def test_rules_per_repository(tmp_path: Path) -> None:
    users = {"htpasswd": {"path": str(htpasswd(tmp_path / "users"))}, "access": RULES}
    async with serving(tmp_path / "data", {"auth": users}) as server, Client(server) as client:
        layers = some_layers()
        digest = await client.push("public/app", "v1", layers, basic("ann"))
        await client.push("bob/app", "v1", some_layers(), basic("bob"))
        await client.pull("public/app", "v1")
        assert (await client("GET", "/v2/bob/app/manifests/v1"))[0] == 401
        status, _, body = await client("POST", "/v2/ann/app/blobs/uploads/", b"", basic("bob"))
        assert status == 403 and json.loads(body)["errors"][0]["code"] == "DENIED"
        assert (await client("DELETE", f"/v2/public/app/manifests/{digest}", None, basic("bob")))[0] == 403
        assert (await client("GET", "/v2/_catalog", None, basic("bob")))[0] == 403
        status, _, body = await client("GET", "/v2/_catalog", None, basic("ann"))
        assert json.loads(body)["repositories"] == ["bob/app", "public/app"]
        # A blob of a repository that he may not see is no gift, whether he names the repository or not.
        secret = await client.push_blob("ann/app", b"secret", basic("ann"))
        for source in ("&from=ann/app", ""):
            path = f"/v2/bob/app/blobs/uploads/?mount={secret}{source}"
            assert (await client("POST", path, b"", basic("bob")))[0] == 202


async def token_for(client: Client, path: str, login: dict[str, str], method: str = "GET") -> dict[str, str]:
    """What a client does: asked without a token, it goes where the challenge says."""
    status, headers, _ = await client(method, path, b"" if method == "POST" else None)
    assert status == 401
    challenge = parse_challenge(headers["WWW-Authenticate"])
    assert challenge.scheme == "bearer"
    query = {
        name: challenge.parameters[name] for name in ("service", "scope") if name in challenge.parameters
    }
    status, _, body = await client("GET", challenge.parameters["realm"], None, login, params=query)
    assert status == 200, body
    return {"Authorization": f"Bearer {json.loads(body)['token']}"}


async def test_our_token_service(tmp_path: Path) -> None:
    auth = {"tokenservice": {"path": str(htpasswd(tmp_path / "users"))}, "access": RULES}
    async with serving(tmp_path / "data", {"auth": auth}) as server, Client(server) as client:
        push = await token_for(client, "/v2/bob/app/blobs/uploads/", basic("bob"), "POST")
        await client.push("bob/app", "v1", some_layers(), push)
        status, headers, _ = await client("POST", "/v2/bob/other/blobs/uploads/", b"", push)
        assert status == 401 and 'error="insufficient_scope"' in headers["WWW-Authenticate"]
        denied = await token_for(client, "/v2/ann/app/blobs/uploads/", basic("bob"), "POST")
        assert (await client("POST", "/v2/ann/app/blobs/uploads/", b"", denied))[0] == 401
        ann = await token_for(client, "/v2/_catalog", basic("ann"))
        assert (await client("GET", "/v2/_catalog", None, ann))[0] == 200
        assert (await client("GET", "/auth/token", None, {"Authorization": "Basic YTpi"}))[0] == 401
        name, _, signature = ann["Authorization"].rpartition(".")
        broken = {"Authorization": f"{name}.{signature[::-1]}"}
        assert (await client("GET", "/v2/_catalog", None, broken))[0] == 401
    async with serving(tmp_path / "data", {"auth": auth}) as server, Client(server) as client:
        assert (await client("GET", "/v2/_catalog", None, ann))[0] == 200, "the key outlives a restart"


class Certificate:
    """A key with its certificate, signed by another one or by itself."""

    def __init__(self, name: str, issuer: "Certificate | None" = None, *, ca: bool = False) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name if issuer else self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        self.certificate = builder.sign((issuer or self).key, hashes.SHA256())

    def write(self, folder: Path, name: str) -> tuple[str, str]:
        """(path of the certificate, of the key)."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(key)
        return str(folder / f"{name}.pem"), str(folder / f"{name}.key")

    @property
    def der(self) -> str:
        return base64.b64encode(self.certificate.public_bytes(serialization.Encoding.DER)).decode()


class Elsewhere:
    """A token service of its own, as sites run them: it knows users, and signs what it grants."""

    def __init__(self, signer: Certificate, header: dict[str, Any]) -> None:
        self.signer, self.header = signer, header
        self.realm = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Elsewhere"]:
        runner = web.ServerRunner(web.Server(self._answer))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.realm = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
        yield self
        await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Authorization") != basic("ann")["Authorization"]:
            return web.Response(status=401)
        kind, name, actions = request.query.get("scope", "registry:none:pull").split(":")
        access = [{"type": kind, "name": name, "actions": actions.split(",")}]
        return web.json_response({"token": self.token(access)})

    def token(self, access: list[dict[str, Any]], **other: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": "elsewhere",
            "aud": "ours",
            "sub": "ann",
            "exp": now + 300,
            "nbf": now,
            "access": access,
        }
        claims = {name: value for name, value in (claims | other).items() if value is not None}
        return jwt.encode(claims, self.signer.key, algorithm="ES256", headers=self.header)


@pytest.mark.parametrize("how", ["kid", "x5c", "jwks", "bare"])
async def test_a_token_service_elsewhere(tmp_path: Path, how: str) -> None:
    root = Certificate("root", ca=True)
    signer = Certificate("signer", root) if how == "x5c" else root
    header = {"kid": {"kid": fingerprint(root.key.public_key())}, "x5c": {"x5c": [signer.der]},
              "jwks": {"kid": "one"}, "bare": {}}[how]  # fmt: skip
    async with Elsewhere(signer, header).running() as service:
        token: dict[str, Any] = {"realm": service.realm, "service": "ours", "issuer": "elsewhere"}
        if how == "jwks":
            key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(root.key.public_key())) | {"kid": "one"}
            (tmp_path / "jwks.json").write_text(json.dumps({"keys": [key]}))
            token["jwks"] = str(tmp_path / "jwks.json")
        else:
            token["rootcertbundle"] = root.write(tmp_path, "root")[0]
        async with serving(tmp_path / "data", {"auth": {"token": token}}) as server, Client(server) as client:
            push = await token_for(client, "/v2/a/b/blobs/uploads/", basic("ann"), "POST")
            layers = some_layers()
            await client.push("a/b", "v1", layers, push)
            assert (await client.pull("a/b", "v1", push))[1:] == layers
            assert (await client("GET", "/v2/a/c/tags/list", None, push))[0] == 401
            for refused in _forged(service, Certificate("stranger", ca=True)):
                bearer = {"Authorization": f"Bearer {refused}"}
                assert (await client("GET", "/v2/a/b/tags/list", None, bearer))[0] == 401, refused[:60]


def _forged(service: Elsewhere, stranger: Certificate) -> list[str]:
    """Tokens that must not open anything."""
    access = [{"type": "repository", "name": "a/b", "actions": ["pull"]}]
    claims = {"iss": "elsewhere", "aud": "ours", "exp": time.time() + 300, "access": access}
    public = service.signer.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    as_secret = base64.urlsafe_b64encode(public).decode()
    other = Elsewhere(stranger, {})
    vouching = Elsewhere(stranger, {"x5c": [stranger.der]})
    return [
        service.token(access, exp=int(time.time()) - 100),
        service.token(access, aud="another registry"),
        service.token(access, iss="another service"),
        service.token(access, nbf=int(time.time()) + 1000),
        service.token(access, exp=None),
        service.token([]),
        other.token(access),
        vouching.token(access),
        jwt.encode(claims, "", algorithm="none"),
        jwt.encode(claims, as_secret, algorithm="HS256"),
        "x.y.z",
        "",
        "a" * 30_000,
    ]


async def test_client_certificates(tmp_path: Path) -> None:
    root, stranger = Certificate("root", ca=True), Certificate("stranger", ca=True)
    ca, _ = root.write(tmp_path, "ca")
    certificate, key = Certificate("localhost", root).write(tmp_path, "server")
    tls = {"certificate": certificate, "key": key, "clientcas": [ca]}
    async with serving(tmp_path / "data", {"http": {"tls": tls}}) as server:
        address = server.addresses[0].replace("127.0.0.1", "localhost")
        for signer, welcome in ((root, True), (stranger, False), (None, False)):
            context = ssl.create_default_context(cafile=ca)
            if signer:
                context.load_cert_chain(*Certificate("client", signer).write(tmp_path, "client"))
            connector = aiohttp.TCPConnector(ssl=context)
            async with Client(f"https://{address}", connector=connector) as client:
                if welcome:
                    layers = some_layers(1, 3 << 20)
                    await client.push("a/b", "v1", layers)
                    assert (await client.pull("a/b", "v1"))[1:] == layers
                else:
                    with pytest.raises((aiohttp.ClientError, OSError)):
                        await client("GET", "/v2/")


async def test_a_password_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("ann:plain\n")
    with pytest.raises(InvalidArgument, match="line 1 of"):
        async with serving(tmp_path / "data", {"auth": {"htpasswd": {"path": str(tmp_path / "users")}}}):
            await asyncio.sleep(0)
