"""A daemon that writes down what clients ask and says yes to everything: two clients can be compared by it."""

import http.server
import json
import re
import socketserver
import threading
import urllib.parse
from pathlib import Path
from typing import Any

_ANSWERS = {
    "/containers/create": (201, {"Id": "abc", "Warnings": []}),
    "/exec": (200, {"Id": "abc", "ExitCode": 0}),
    "/commit": (201, {"Id": "abc"}),
    "/networks/create": (201, {"Id": "abc"}),
    "/volumes/create": (201, {"Name": "abc"}),
    "/prune": (200, {"SpaceReclaimed": 0}),
    "/top": (200, {"Titles": ["PID"], "Processes": []}),
    "/wait": (200, {"StatusCode": 0}),
    "/update": (200, {"Warnings": []}),
    "/json": (200, {"Id": "abc", "Config": {"Tty": False}, "State": {"Running": True}, "Names": []}),
}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None: ...

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, reply = 200, b"OK"
        path, _, query = self.path.partition("?")
        path = re.sub(r"^/v1\.\d+", "", path)
        if path != "/_ping":
            value = json.loads(body) if body[:1] == b"{" else None
            self.server.seen.append((self.command, path, urllib.parse.parse_qs(query), value))
            found = next((each for end, each in _ANSWERS.items() if end in path), (200, {}))
            status, reply = found[0], json.dumps(found[1]).encode()
            if self.command == "GET" and path in ("/networks", "/containers/json", "/images/json"):
                reply = b"[]"
            if path == "/events" or path.endswith("/logs"):
                reply = b""
        self.send_response(status)
        for name, text in (
            ("Api-Version", "1.47"),
            ("Ostype", "linux"),
            ("Content-Type", "application/json"),
        ):
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply)

    do_GET = do_POST = do_HEAD = do_DELETE = do_PUT = answer


class Recorder(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """`seen` holds (method, path, query, body) of every request but pings."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        self.seen: list[tuple[str, str, dict[str, list[str]], Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has seen enough hangs up."""

    def get_request(self) -> Any:
        connection, _ = super().get_request()
        return connection, ("client", 0)


def without_defaults(value: Any) -> Any:
    """A request's meaning: what is empty, zero or unset is not said."""
    if isinstance(value, dict):
        cleaned = {key: without_defaults(item) for key, item in value.items()}
        return {key: item for key, item in cleaned.items() if item not in (None, {}, [], "", 0, False)}
    return [without_defaults(item) for item in value] if isinstance(value, list) else value
