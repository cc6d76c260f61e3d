"""What a client offers beside files: asked for over a session in memory."""

import asyncio
from collections.abc import Awaitable

import pytest
from tests.engine.unit.buildkit_peer import pair, session_with

from longshore.api.buildkit.attachables import (
    CHECK_AGENT,
    CREDENTIALS,
    FORWARD_AGENT,
    GET_SECRET,
    MAX_SECRET,
    PULL,
    UPLOADED,
    credentials,
    secret,
    ssh_agent,
    uploaded,
)
from longshore.api.buildkit.grpc import Call, Handler
from longshore.api.buildkit.messages import BytesMessage, Empty
from longshore.api.buildkit.messages_session import (
    CheckAgentRequest,
    CredentialsRequest,
    CredentialsResponse,
    GetSecretRequest,
    GetSecretResponse,
)
from longshore.api.buildkit.services import unary
from longshore.api.buildkit.session import Session, Sessions, nobody
from longshore.errors import Conflict, EngineError, InvalidArgument, NotFound


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(bounded())


async def _secret(call: Call, request: GetSecretRequest) -> GetSecretResponse:
    if request.id == "large":
        return GetSecretResponse(bytes(MAX_SECRET + 1))
    if request.id != "token":
        raise NotFound(f"secret {request.id} not found")
    return GetSecretResponse(b"\0s3cret")


async def _credentials(call: Call, request: CredentialsRequest) -> CredentialsResponse:
    known = {
        "registry-1.docker.io": CredentialsResponse("hub", "pw"),
        "r.example": CredentialsResponse("", "refresh"),
    }
    return known.get(request.host, CredentialsResponse())


OFFERED: dict[str, Handler] = {
    GET_SECRET: unary(GetSecretRequest, _secret),
    CREDENTIALS: unary(CredentialsRequest, _credentials),
}


def test_secrets_and_logins() -> None:
    async def test() -> None:
        async with session_with(OFFERED) as session:
            assert await secret(session, "token") == b"\0s3cret"
            assert await secret(session, "other") is None
            with pytest.raises(EngineError, match="too large"):
                await secret(session, "large")
            hub = await credentials(session, "docker.io")
            assert hub is not None and (hub.username, hub.password) == ("hub", "pw")
            token = await credentials(session, "r.example")
            assert token is not None and token.identity_token == "refresh"
            assert await credentials(session, "nobody.example") is None

    run(test())


def test_a_client_that_offers_nothing() -> None:
    async def test() -> None:
        assert await secret(nobody(), "token") is None
        assert await credentials(nobody(), "docker.io") is None
        async with ssh_agent(nobody(), "default") as path:
            assert path is None

    run(test())


def test_the_agent_s_socket_reaches_the_client_and_goes() -> None:
    async def test() -> None:
        async def forward(call: Call) -> None:
            assert call.metadata["buildkit.ssh.id"] == "work"
            while (message := await call.receive()) is not None:
                await call.send(BytesMessage(BytesMessage.decode(message).data.upper()).encode())

        async def check(call: Call, request: CheckAgentRequest) -> Empty:
            if request.id != "work":
                raise NotFound(f"unset ssh forward key {request.id}")
            return Empty()

        offered = {FORWARD_AGENT: forward, CHECK_AGENT: unary(CheckAgentRequest, check)}
        async with session_with(offered) as session:
            async with ssh_agent(session, "work") as path:
                assert path is not None
                for word in (b"one", b"two"):
                    reader, writer = await asyncio.open_unix_connection(path)
                    writer.write(word)
                    assert await reader.readexactly(3) == word.upper()
                    writer.write_eof()
                    assert await reader.read() == b""
                    writer.close()
            assert not path.parent.exists()
            with pytest.raises(NotFound, match="unset ssh forward key other"):
                async with ssh_agent(session, "other"):
                    pass

    run(test())


def test_a_context_on_standard_input() -> None:
    async def test() -> None:
        async def pull(call: Call) -> None:
            assert call.metadata["urlpath"] == "/abc"
            for _ in range(3):
                await call.send(BytesMessage(b"tar").encode())

        async with session_with({PULL: pull}) as session:
            assert b"".join([data async for data in uploaded(session, UPLOADED + "abc")]) == b"tar" * 3

    run(test())


def test_sessions_come_once_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        sessions = Sessions()
        headers = {
            "x-docker-expose-session-uuid": "one",
            "x-docker-expose-session-grpc-method": "/a.B/C, /d.E/F",
        }
        ours, theirs = pair()
        waiting = asyncio.create_task(sessions.get("one"))
        serving = asyncio.create_task(sessions.serve(headers, ours))
        session: Session = await waiting
        assert session.offers("/A.b/c") and session.offers("/d.E/F") and not session.offers("")
        with pytest.raises(Conflict, match="already exists"):
            sessions.check(headers)
        with pytest.raises(InvalidArgument, match="needs an id"):
            sessions.check({})
        await theirs.write_eof()
        await serving
        monkeypatch.setattr("longshore.api.buildkit.session.WAIT_SECONDS", 0.01)
        with pytest.raises(NotFound, match="no active session for one"):
            await sessions.get("one")

    run(test())
