"""A registry over real HTTP that misbehaves as told. Threads of this process; nothing outside of 127.0.0.1."""

import hashlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
CONFIG = "application/vnd.docker.container.image.v1+json"


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes = b""

    @property
    def login(self) -> str:
        return self.headers.get("authorization", "")


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    cut: int | None = None  # the connection ends after so many bytes of the body
    drip: float = 0.0  # the body comes byte by byte, so many seconds apart
    hang: bool = False  # after `cut` bytes it stays open and silent, until the registry is closed


Fault = Callable[[Asked], Answer | None]
"""What is said instead of the truth; None: the truth."""


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


class FakeRegistry:
    """Blobs and manifests by digest, tags; `faults` are asked first, in their order."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}  # by tag or digest: media type and bytes
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.knows_ranges = True
        self.ended = threading.Event()
        self.address = ""

    # What it has

    def blob(self, data: bytes, kind: str = LAYER, algorithm: str = "sha256") -> dict[str, Any]:
        name = digest(data, algorithm)
        self.blobs[name] = data
        return {"mediaType": kind, "digest": name, "size": len(data)}

    def manifest(self, document: dict[str, Any], *tags: str, kind: str = MANIFEST) -> dict[str, Any]:
        data = json.dumps(document).encode()
        for name in (digest(data), digest(data, "sha512"), *tags):
            self.manifests[name] = (kind, data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def image(
        self, layers: list[tuple[bytes, bytes]], *tags: str, algorithm: str = "sha256", **config: Any
    ) -> dict[str, Any]:
        """An image of (plain tar, packed) layers; returns its manifest's descriptor."""
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(plain) for plain, _ in layers]},
        } | config
        return self.manifest(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": self.blob(json.dumps(document).encode(), CONFIG, algorithm),
                "layers": [self.blob(packed, LAYER, algorithm) for _, packed in layers],
            },
            *tags,
        )

    # What it does

    def first(self, count: int, path: str, answer: Answer) -> None:
        """The first `count` requests that have `path` in theirs get this answer."""
        left = [count]

        def fault(asked: Asked) -> Answer | None:
            if path not in asked.path or not left[0]:
                return None
            left[0] -= 1
            return answer

        self.faults.append(fault)

    def paths(self, part: str) -> list[Asked]:
        return [asked for asked in self.asked if part in asked.path]

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        for fault in self.faults:
            if (answer := fault(asked)) is not None:
                return answer
        return self.truth(asked)

    def truth(self, asked: Asked) -> Answer:
        path = asked.path.partition("?")[0]
        if path == "/v2/":
            return Answer(200, b"{}")
        if found := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", path):
            if found[2] not in self.manifests:
                return Answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
            kind, data = self.manifests[found[2]]
            return Answer(200, data, {"Content-Type": kind, "Docker-Content-Digest": digest(data)})
        if (found := re.fullmatch(r"/v2/(.+)/blobs/([^/]+)", path)) and found[2] in self.blobs:
            data = self.blobs[found[2]]
            wanted = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
            if wanted and self.knows_ranges:
                start = int(wanted[1])
                if start >= len(data):
                    return Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                told = f"bytes {start}-{len(data) - 1}/{len(data)}"
                return Answer(206, data[start:], {"Content-Range": told})
            return Answer(200, data)
        return Answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}')


@contextmanager
def running(
    registry: FakeRegistry | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[FakeRegistry]:
    """`tls`: a server's context; without it plain HTTP."""
    registry = registry or FakeRegistry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            answer = registry.answer(asked)
            with suppress(OSError):
                self.send_response(answer.status)
                for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if answer.drip:
                    for byte in answer.body:
                        self.wfile.write(bytes([byte]))
                        if registry.ended.wait(answer.drip):
                            break
                self.wfile.write(answer.body[: answer.cut])
                self.wfile.flush()
                if answer.hang:
                    registry.ended.wait(120)
                if answer.hang or answer.cut is not None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_HEAD = do_POST = do_PUT = serve

        def log_message(self, format: str, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            return  # a client that went away

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    registry.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        registry.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
