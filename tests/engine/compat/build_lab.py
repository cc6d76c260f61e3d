"""Builds by POST /build, for the tests of the builder."""

import contextlib
import http.client
import io
import json
import socket
import tarfile
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

Files = Mapping[str, str | bytes | tuple[str, int]]


def context(files: Files) -> bytes:
    """A tar of texts, bytes, or (text, mode); a name that ends in / is a folder, "-> x" a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, given in files.items():
            text, mode = given if isinstance(given, tuple) else (given, 0o644)
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode, info.mtime = mode, 1_600_000_000
            data = text.encode() if isinstance(text, str) else text
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            elif isinstance(text, str) and text.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, text[3:]
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


class Built:
    """What a build said: `text` of the stream, `id` of the image, `error`, and the HTTP status."""

    def __init__(self, status: int, messages: list[Any]) -> None:
        self.status = status
        self.text = "".join(message.get("stream", "") for message in messages)
        self.error = next(
            (str(m.get("error") or m.get("message")) for m in messages if "error" in m or "message" in m), ""
        )
        self.id = next((str(m["aux"]["ID"]) for m in messages if "aux" in m), "")

    @property
    def cached(self) -> int:
        return self.text.count("Using cache")

    def __repr__(self) -> str:
        return f"{self.status} {self.error}\n{self.text}"


def build(daemon: Any, dockerfile: str, files: Files | None = None, /, **query: object) -> Built:
    """One build over the daemon's socket; values that are no text go as JSON."""
    given = {k: v if isinstance(v, str) else json.dumps(v) for k, v in query.items()}
    body = context({"Dockerfile": dockerfile, **(files or {})})
    connection = http.client.HTTPConnection("x")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(daemon.socket)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/x-tar"}
        connection.request("POST", f"/build?{urlencode(given)}", body, headers)
        answer = connection.getresponse()
        return Built(answer.status, [json.loads(line) for line in answer.read().splitlines() if line.strip()])


def good(daemon: Any, dockerfile: str, files: Files | None = None, /, **query: object) -> Built:
    """A build that must not fail."""
    built = build(daemon, dockerfile, files, **query)
    assert built.status == 200, built
    assert not built.error, built
    return built


def output(daemon: Any, image: str, *command: str) -> str:
    """What a command says in a container of an image."""
    return str(daemon.docker("run", "--rm", image, *command).out)


def config(daemon: Any, image: str) -> Any:
    return daemon.request("GET", f"/images/{image}/json")[1]
