"""Attaching to a container's streams, and execs: the hijacked connections."""

from collections.abc import Awaitable, Callable
from typing import Any

from longshore.api.containers import MULTIPLEXED, RAW, find, size_of, stream_type
from longshore.api.hijack import converter, copy_streams, parse_detach_keys
from longshore.api.http import AnyReply, ClientStream, Hijack, Reply, Request, Route
from longshore.api.websocket import BINARY, TEXT, WebSocketStream, accept_headers
from longshore.core.containers import LogOptions
from longshore.core.containers.attach import Wanted
from longshore.core.containers.streams import frame
from longshore.core.execs import ExecSession
from longshore.core.model import ExecRequest, ExecStartRequest, decode
from longshore.errors import EngineError


async def attach(request: Request) -> AnyReply:
    """Registered before the answer: `docker run` starts the container when it sees it."""
    query = request.query
    wanted = Wanted(query.flag("stdin"), query.flag("stdout"), query.flag("stderr"))
    serve = _attaching(request, wanted)
    return Hijack(serve, content_type=stream_type(find(request), request.version))


async def attach_websocket(request: Request) -> AnyReply:
    """Raw output in binary frames, both streams mixed; before 1.42 all three streams are attached (API history)."""
    headers = accept_headers(request.headers)
    query = request.query
    wanted = Wanted(True, True, True)
    if request.version >= (1, 42):
        wanted = Wanted(query.flag("stdin"), query.flag("stdout"), query.flag("stderr"))
    attached = _attaching(request, wanted, framed=False)

    async def serve(client: ClientStream) -> None:
        stream = WebSocketStream(client, BINARY if request.version >= (1, 28) else TEXT)
        await attached(stream)
        await stream.write_eof()

    return Hijack(serve, headers=headers)


def _attaching(
    request: Request, wanted: Wanted, *, framed: bool | None = None
) -> Callable[[ClientStream], Awaitable[None]]:
    """Attach now; what is returned copies. `framed` None: as the container's streams are, frames without a tty."""
    container, query = find(request), request.query
    containers, tty = request.engine.containers, container.record.config.tty
    keys = parse_detach_keys(query.get("detachKeys", ""))
    stdin = wanted.stdin and container.record.config.open_stdin
    convert = converter(framed=not tty, wanted=not tty if framed is None else framed)
    attachment = None
    if query.flag("stream"):
        attachment = containers.attach(container, stdin=stdin, stdout=wanted.stdout, stderr=wanted.stderr)

    async def serve(client: ClientStream) -> None:
        try:
            if query.flag("logs"):
                options = LogOptions(stdout=wanted.stdout, stderr=wanted.stderr)
                async for chunk in containers.logs(container, options):
                    await client.write(convert(chunk))
            streams = await attachment.open() if attachment else None
            if streams:
                await copy_streams(
                    client,
                    *streams,
                    stdin=stdin,
                    detach_keys=keys if tty else b"",
                    detached=lambda: containers.detached(container),
                    convert=convert,
                )
        finally:
            if attachment:
                attachment.close()

    return serve


async def create_exec(request: Request) -> AnyReply:
    body = decode(await request.read(), ExecRequest)
    parse_detach_keys(body.detach_keys)
    session = await request.engine.execs.create(find(request), body)
    return Reply(201, {"Id": session.id})


def _session(request: Request) -> ExecSession:
    return request.engine.execs.get(request.parameters["id"])


async def start_exec(request: Request) -> AnyReply:
    """Not detached, a program that cannot be run is told in the stream, and by the exit code of inspect."""
    session, execs = _session(request), request.engine.execs
    body = decode(await request.read(), ExecStartRequest)
    if body.console_size and session.request.tty:
        session.request.console_size = body.console_size
    if body.detach:
        await execs.start(session, detach=True)
        return Reply(200)
    execs.check_start(session)
    tty = session.request.tty
    # Frames go by the Tty of this request, as in Docker; docker-py leaves it out and expects them then
    convert = converter(framed=not tty, wanted=not body.tty)
    media = RAW if body.tty or request.version < (1, 42) else MULTIPLEXED
    keys = parse_detach_keys(session.request.detach_keys) if tty else b""

    async def serve(client: ClientStream) -> None:
        # Only now: docker-py loses output that comes in one packet with the headers
        try:
            streams = await execs.start(session)
        except EngineError as error:
            text = f"{error}\r\n".encode()
            await client.write(text if body.tty else frame("stdout", text))
            return
        ended = True
        if streams:
            stdin = session.request.attach_stdin
            ended = await copy_streams(
                client,
                *streams,
                stdin=stdin,
                detach_keys=keys,
                detached=lambda: execs.detached(session),
                convert=convert,
            )
        if ended:
            await execs.wait(session)  # clients ask for the exit code as soon as the stream ends

    return Hijack(serve, content_type=media)


async def resize_exec(request: Request) -> AnyReply:
    await request.engine.execs.resize(_session(request), *size_of(request.query))
    return Reply(200)


async def show_exec(request: Request) -> AnyReply:
    return Reply(body=exec_view(_session(request)))


def exec_view(session: ExecSession) -> dict[str, Any]:
    request = session.request
    command = request.cmd or []
    process: dict[str, Any] = {"tty": request.tty, "entrypoint": command[0], "arguments": command[1:]}
    process |= {"privileged": request.privileged}
    if request.user:
        process["user"] = request.user
    return {
        "ID": session.id,
        "Running": session.running,
        "ExitCode": session.exit_code,
        "ProcessConfig": process,
        "OpenStdin": request.attach_stdin,
        "OpenStderr": request.attach_stderr,
        "OpenStdout": request.attach_stdout,
        "CanRemove": False,
        "ContainerID": session.container.id,
        "DetachKeys": "",
        "Pid": session.pid,
    }


ROUTES = [
    Route("POST", "/containers/{id}/attach", attach),
    Route("GET", "/containers/{id}/attach/ws", attach_websocket),
    Route("POST", "/containers/{id}/exec", create_exec),
    Route("POST", "/exec/{id}/start", start_exec),
    Route("POST", "/exec/{id}/resize", resize_exec),
    Route("GET", "/exec/{id}/json", show_exec),
]
