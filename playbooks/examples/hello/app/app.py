"""The application behind nginx: says who it is."""

import http.server
import json
import socket

VERSION = 1


class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"hello": "world", "version": VERSION, "container": socket.gethostname()}) + "\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """nginx logs already."""


http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Hello).serve_forever()
