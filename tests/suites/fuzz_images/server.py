"""Requests that no client sends, to `longshore registry serve`: it answers below 500, or closes, and lives on."""

import http.client
import json
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hypothesis import strategies as st
from tests.engine.fake_registry import MANIFEST, digest
from tests.suites.registry.servers import ours

BLOB = b"blob" * 50
_NAMES = st.sampled_from(
    ["app", "a/b", "A", "..", "a//b", "%2e%2e", "a%00b", "x" * 300, "", "_catalog", "é", "a/blobs"]
)
_DIGESTS = st.sampled_from(
    [
        digest(BLOB),
        digest(b""),
        digest(BLOB, "sha512"),
        "sha256:" + "0" * 64,
        "sha256:zz",
        "md5:00",
        "latest",
        "..",
        "",
        "x" * 200,
    ]
)
_TAILS = st.one_of(
    st.builds("manifests/{}".format, _DIGESTS),
    st.builds("blobs/{}".format, _DIGESTS),
    st.builds(
        "blobs/uploads/{}".format, st.sampled_from(["", "00000000-0000-0000-0000-000000000000", "..", "x"])
    ),
    st.builds("referrers/{}".format, _DIGESTS),
    st.sampled_from(["tags/list", "tags", "", "blobs", "uploads", "UPLOAD"]),
)
_QUERIES = st.dictionaries(
    st.sampled_from(["digest", "mount", "from", "n", "last", "artifactType", "x"]),
    st.one_of(_DIGESTS, _NAMES, st.sampled_from(["-1", "0", "1", "99999999999999999999", "1e9", "%"])),
    max_size=3,
)
_HEADERS = st.dictionaries(
    st.sampled_from(["Content-Type", "Content-Range", "Range", "Accept", "Authorization", "If-None-Match", "Expect", "Host", "Content-Length",
                     "Transfer-Encoding", "Cookie"]),
    st.one_of(
        st.sampled_from([MANIFEST, "0-9", "5-3", "bytes=0-", "bytes=9-1", "bytes=-5", "bytes=0-1,3-4", "Basic eDp5", "Bearer x", "*/*",
                         "100-continue", "chunked", "0", "-1", "99999999999", "application/vnd.oci.image.manifest.v1+json"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    ),
    max_size=3,
)  # fmt: skip
_BODIES = st.one_of(
    st.none(),
    st.just(BLOB),
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"{}",
            b"[" * 5000,
            json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {}, "layers": []}).encode(),
            json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": MANIFEST,
                    "config": {"mediaType": "a/b", "digest": digest(BLOB), "size": len(BLOB)},
                    "layers": [],
                }
            ).encode(),
        ]
    ),
)
Request = tuple[str, str, dict[str, str], dict[str, str], bytes | None]


def requests() -> st.SearchStrategy[list[Request]]:
    methods = st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
    paths = st.one_of(
        st.builds("/v2/{}/{}".format, _NAMES, _TAILS),
        st.sampled_from(["/", "/v2", "/v2/", "//v2/", "*", "/v2/_catalog"]),
    )
    return st.lists(st.tuples(methods, paths, _QUERIES, _HEADERS, _BODIES), min_size=1, max_size=6)


class Lab:
    def __init__(self, address: str) -> None:
        self.address = address
        self.upload = ""

    def check(self, sent: list[Request], seen: Counter[str]) -> None:
        """One connection. Raises AssertionError."""
        host, _, port = self.address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        try:
            for method, path, query, headers, body in sent:
                status = self.one(connection, method, path, query, headers, body)
                seen[f"{status // 100}xx" if status else "closed"] += 1
        finally:
            connection.close()
        probe = http.client.HTTPConnection(host, int(port), timeout=10)
        probe.request("GET", "/v2/")
        assert probe.getresponse().status in (200, 401), "it does not live on"
        probe.close()

    def one(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: dict[str, str],
        headers: dict[str, str],
        body: bytes | None,
    ) -> int:
        """The status, 0 for a closed connection."""
        path = path.replace("UPLOAD", self.upload or "blobs/uploads/")
        words = "&".join(f"{name}={value}" for name, value in query.items())
        target = (f"{path}?{words}" if words else path).replace(" ", "%20")
        with suppress(UnicodeEncodeError):
            target.encode("ascii")
        target = target.encode("utf-8").decode("latin-1")
        try:
            connection.putrequest(method, target, skip_host="Host" in headers)
            given = dict(headers)
            if body is not None and "Content-Length" not in given and "Transfer-Encoding" not in given:
                given["Content-Length"] = str(len(body))
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            if "Content-Length" in headers or "Transfer-Encoding" in headers or "Expect" in headers:
                connection.sock.shutdown(socket.SHUT_WR)  # it may wait for what was promised
            answer = connection.getresponse()
            answer.read()
        except (http.client.HTTPException, OSError, ValueError):
            connection.close()
            return 0
        assert answer.status < 500 or answer.status == 501, (
            f"{answer.status} to {method} {target} {headers} {body!r}"
        )
        if location := answer.headers.get("Location"):
            self.upload = location.partition("/v2/app/")[2].partition("?")[0]
        return answer.status


@contextmanager
def lab() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="fuzz") as folder, ours(Path(folder)) as address:
        yield Lab(address)
        log = (Path(folder) / "log").read_text(errors="replace")
        assert "Traceback" not in log, log[log.index("Traceback") :][:3000]
