"""Rows measured at the API itself, where the command line's own start would hide the engine's part."""

import concurrent.futures
import contextlib
import json
import socket
import statistics

from tests.bench.peers import Engine
from tests.bench.rows import timed

LISTED = 1000


def _hijack(engine: Engine, path: str, body: object) -> socket.socket:
    """A connection that has become a stream."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(engine.socket))
    payload = json.dumps(body).encode()
    head = f"POST /v1.41{path} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    connection.sendall(head.encode() + payload)
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(4096)
        if not part:
            raise RuntimeError(f"POST {path}: the connection ended: {answer.decode(errors='replace')}")
        answer += part
    if b" 101 " not in answer.split(b"\r\n", 1)[0] and b" 200 " not in answer.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"POST {path}: {answer.decode(errors='replace')}")
    return connection


def exec_api(engine: Engine) -> float:
    """Milliseconds of one exec at the API: create, start until the stream ends, inspect."""
    with contextlib.closing(engine.client()) as client:
        identity = client.create("sleep", "1000")
        client.start(identity)

        def once() -> None:
            wanted = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
            made = client.call("POST", f"/v1.41/containers/{identity}/exec", wanted)["Id"]
            with _hijack(engine, f"/exec/{made}/start", {"Detach": False, "Tty": False}) as stream:
                while stream.recv(4096):
                    pass
            if client.call("GET", f"/v1.41/exec/{made}/json")["ExitCode"] != 0:
                raise RuntimeError("true is not true")

        once()
        seconds = statistics.median(timed(once) for _ in range(5))
        client.remove(identity)
    return seconds * 1000


def attach_round_trip(engine: Engine) -> float:
    """Milliseconds from a line on the attached standard input to its echo."""
    with contextlib.closing(engine.client()) as client:
        streams = {"AttachStdin": True, "AttachStdout": True, "OpenStdin": True, "StdinOnce": True}
        identity = client.create("cat", **streams)
        query = "stream=1&stdin=1&stdout=1"
        with _hijack(engine, f"/containers/{identity}/attach?{query}", {}) as stream:
            client.start(identity)

            def once() -> None:
                stream.sendall(b"line\n")
                got = b""
                while len(got) < 13:  # a frame's head and the line
                    part = stream.recv(4096)
                    if not part:
                        raise RuntimeError("cat has ended")
                    got += part

            once()
            seconds = statistics.median(timed(once) for _ in range(50))
        client.remove(identity)
    return seconds * 1000


def list_thousand(engine: Engine) -> float:
    """Milliseconds of a list of all of a thousand containers."""

    def create(share: range) -> list[str]:
        with contextlib.closing(engine.client()) as client:
            return [client.create("true") for _ in share]

    def remove(identities: list[str]) -> None:
        with contextlib.closing(engine.client()) as client:
            for identity in identities:
                client.remove(identity)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        shares = list(pool.map(create, [range(LISTED // 8)] * 8))
        with contextlib.closing(engine.client()) as client:
            client.call("GET", "/v1.41/containers/json?all=1")
            seconds = statistics.median(
                timed(lambda: client.call("GET", "/v1.41/containers/json?all=1")) for _ in range(5)
            )
        list(pool.map(remove, shares))
    return seconds * 1000
