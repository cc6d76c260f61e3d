"""What a client offers on its session beside files: secrets, its ssh agent, its registry logins, a context on stdin."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from longshore.api.buildkit.grpc import ClientCall
from longshore.api.buildkit.messages import BytesMessage
from longshore.api.buildkit.messages_session import (
    CheckAgentRequest,
    CredentialsRequest,
    CredentialsResponse,
    GetSecretRequest,
    GetSecretResponse,
)
from longshore.api.buildkit.session import Session
from longshore.errors import EngineError, NotFound
from longshore.registry.auth import Credentials

log = logging.getLogger("longshore.api.buildkit")

GET_SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
CHECK_AGENT = "/moby.sshforward.v1.SSH/CheckAgent"
FORWARD_AGENT = "/moby.sshforward.v1.SSH/ForwardAgent"
CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
PULL = "/moby.upload.v1.Upload/Pull"
UPLOADED = (
    "http://buildkit-session/"  # the address of a context that the client reads from its standard input
)
HUB_HOST = "registry-1.docker.io"  # the name by which clients of BuildKit know Docker Hub's login
MAX_SECRET = 500 << 10  # BuildKit's limit
PIECE = 32 << 10


async def secret(session: Session, id: str) -> bytes | None:
    """The secret's bytes, None when the client has none of this id."""
    if not session.offers(GET_SECRET):
        return None
    try:
        reply = await session.channel.call(GET_SECRET, GetSecretRequest(id).encode())
    except NotFound:
        return None
    data = GetSecretResponse.decode(reply).data
    if len(data) > MAX_SECRET:
        raise EngineError(f"the secret {id} is too large", detail=f"more than {MAX_SECRET} bytes")
    return data


async def credentials(session: Session, domain: str) -> Credentials | None:
    """The client's login for a registry, None when it has none."""
    if not session.offers(CREDENTIALS):
        return None
    host = HUB_HOST if domain == "docker.io" else domain
    reply = CredentialsResponse.decode(
        await session.channel.call(CREDENTIALS, CredentialsRequest(host).encode())
    )
    if reply.username:
        return Credentials(username=reply.username, password=reply.secret)
    return Credentials(identity_token=reply.secret) if reply.secret else None


async def uploaded(session: Session, address: str) -> AsyncIterator[bytes]:
    """The bytes that the client reads from its standard input; `address` begins with UPLOADED."""
    session.need(PULL)
    parts = urlsplit(address)
    metadata = (("urlpath", parts.path), ("urlhost", parts.netloc))
    async with await session.channel.open(PULL, metadata) as call:
        await call.end()
        async for message in call:
            yield BytesMessage.decode(message).data


@asynccontextmanager
async def ssh_agent(session: Session, id: str) -> AsyncGenerator[Path | None, None]:
    """A Unix socket of this host; what is said to it reaches the client's agent while the block is open."""
    if not session.offers(CHECK_AGENT):
        yield None
        return
    await session.channel.call(CHECK_AGENT, CheckAgentRequest(id).encode())
    with tempfile.TemporaryDirectory(prefix="longshore-ssh-") as folder:
        forwards: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # a callback of the server is a task
            forwards.add(task)
            try:
                await _forward(session, id, reader, writer)
            except (EngineError, ConnectionError) as error:
                log.info("ssh agent %s: %s", id, error)
            finally:
                forwards.discard(task)
                writer.close()

        path = Path(folder) / "agent.sock"
        server = await asyncio.start_unix_server(accept, path)
        path.chmod(0o666)  # the folder above is ours alone; a RUN step may have any user
        try:
            yield path
        finally:
            server.close()
            for task in forwards:
                task.cancel()
            await asyncio.gather(*forwards, return_exceptions=True)


async def _forward(
    session: Session, id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    async with await session.channel.open(FORWARD_AGENT, [("buildkit.ssh.id", id)]) as call:
        outward = asyncio.create_task(_to_client(call, reader))
        try:
            async for message in call:
                writer.write(BytesMessage.decode(message).data)
                await writer.drain()
        finally:
            outward.cancel()
            await asyncio.gather(outward, return_exceptions=True)


async def _to_client(call: ClientCall, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(PIECE):
        await call.send(BytesMessage(data).encode())
    await call.end()
