"""What the points of the suite speak with: one request at a time, nothing hidden, and content made up on the spot."""

import hashlib
import http.client
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
EMPTY_JSON = "application/vnd.oci.empty.v1+json"
OCTETS = "application/octet-stream"
ACCEPT = {"Accept": ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        """The codes of an error reply."""
        return [error["code"] for error in self.json["errors"]]


class Registry:
    """One registry under test; keeps its connection as clients do."""

    def __init__(self, address: str, headers: Mapping[str, str] | None = None) -> None:
        self.address = address
        self._headers = dict(headers or {})
        self._connection: http.client.HTTPConnection | None = None

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        **query: str,
    ) -> Answer:
        """`path` may be a Location, relative or absolute; `query` is added to what it has."""
        # urljoin would take the dots out of bad names
        parts = urlsplit(path if path.startswith("/") else urljoin(f"http://{self.address}/", path))
        asked = "&".join(filter(None, (parts.query, urlencode(query))))
        target = f"{parts.path}?{asked}" if asked else parts.path
        for attempt in range(2):
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self.address, timeout=30)
            try:
                self._connection.request(method, target, body, {**self._headers, **(headers or {})})
                reply = self._connection.getresponse()
                answer = Answer(reply.status, reply.headers, reply.read())
            except (http.client.RemoteDisconnected, ConnectionError):
                self.close()  # an idle connection that the server has closed meanwhile
                if attempt or not isinstance(body, bytes | None):
                    raise
                continue
            except BaseException:
                self.close()
                raise
            if reply.will_close:
                self.close()
            return answer
        raise AssertionError("unreachable")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def some_bytes(size: int = 512) -> bytes:
    return os.urandom(size)


def ok(condition: object, text: str = "", answer: Answer | None = None) -> None:
    """An assertion that shows the answer."""
    if not condition:
        shown = f" ({answer.status} {answer.body[:200]!r})" if answer else ""
        raise AssertionError(f"{text}{shown}")


def expect(answer: Answer, *statuses: int) -> Answer:
    ok(
        answer.status in statuses,
        f"status {answer.status} instead of {' or '.join(map(str, statuses))}",
        answer,
    )
    return answer


class Repository:
    """A repository that no other point uses, and the steps that most of them begin with."""

    def __init__(self, registry: Registry, name: str = "") -> None:
        self.registry = registry
        self.name = name or f"conformance/{uuid.uuid4().hex[:12]}"

    def __call__(
        self,
        method: str,
        tail: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        **query: str,
    ) -> Answer:
        path = tail if tail.startswith(("/", "http")) else f"/v2/{self.name}/{tail}"
        return self.registry.request(method, path, body, headers, **query)

    def start(self, **query: str) -> str:
        """The address of a new upload."""
        answer = expect(self("POST", "blobs/uploads/", b"", **query), 202)
        ok(answer.header("Location"), "no Location", answer)
        return answer.header("Location")

    def push_blob(self, data: bytes, algorithm: str = "sha256") -> str:
        digest = digest_of(data, algorithm)
        headers = {"Content-Type": OCTETS}
        expect(self("PUT", self.start(), data, headers, digest=digest), 201)
        return digest

    def blob(self, data: bytes, kind: str, algorithm: str = "sha256") -> dict[str, Any]:
        """Push it; its descriptor."""
        return {"mediaType": kind, "digest": self.push_blob(data, algorithm), "size": len(data)}

    def manifest(self, algorithm: str = "sha256", layers: int = 1, **more: Any) -> bytes:
        """The bytes of an OCI image manifest whose blobs are pushed."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.blob(json.dumps({"n": uuid.uuid4().hex}).encode(), OCI_CONFIG, algorithm),
            "layers": [self.blob(some_bytes(), OCI_LAYER, algorithm) for _ in range(layers)],
            **more,
        }
        return json.dumps(document).encode()

    def index(self, manifests: Iterable[bytes], algorithm: str = "sha256", **more: Any) -> bytes:
        """The bytes of an index of manifests that are pushed already."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [descriptor(data, algorithm=algorithm) for data in manifests],
            **more,
        }
        return json.dumps(document).encode()

    def artifact(self, kind: str, subject: bytes | None = None, **more: Any) -> bytes:
        """An artifact without an image in it."""
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": kind,
                "config": self.blob(b"{}", EMPTY_JSON),
                "layers": [self.blob(some_bytes(64), kind)],
                **({"subject": descriptor(subject)} if subject else {}),
                **more,
            }
        ).encode()

    def put(self, reference: str, data: bytes, kind: str = OCI_MANIFEST, **query: str) -> Answer:
        return self("PUT", f"manifests/{reference}", data, {"Content-Type": kind}, **query)

    def push(self, data: bytes, tag: str = "", kind: str = OCI_MANIFEST, algorithm: str = "sha256") -> str:
        """Push a manifest by tag or by digest; its digest."""
        digest = digest_of(data, algorithm)
        expect(self.put(tag or digest, data, kind), 201)
        return digest

    def get(self, reference: str, method: str = "GET") -> Answer:
        return self(method, f"manifests/{reference}", None, ACCEPT)

    def referrers(self, digest: str, **query: str) -> Answer:
        return self("GET", f"referrers/{digest}", None, None, **query)

    def tagged(self, *tags: str) -> None:
        """The same small manifest under all these tags."""
        data = self.manifest()
        for tag in tags:
            self.push(data, tag)

    def tags(self, **query: str) -> list[str]:
        return expect(self("GET", "tags/list", None, None, **query), 200).json["tags"] or []


def descriptor(data: bytes, kind: str = "", algorithm: str = "sha256") -> dict[str, Any]:
    """Of a manifest."""
    kind = kind or json.loads(data)["mediaType"]
    return {"mediaType": kind, "digest": digest_of(data, algorithm), "size": len(data)}


_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


def next_page(answer: Answer) -> str:
    """The target of the Link to the next page, "" without one."""
    found = _NEXT.search(answer.header("Link"))
    return found[1] if found else ""


@dataclass(frozen=True)
class Point:
    """One demand of the specification. `level` is MUST, SHOULD or MAY, in the specification's words."""

    endpoint: str
    level: str
    demand: str
    check: Callable[[Repository], None]

    @property
    def name(self) -> str:
        return self.check.__name__


POINTS: list[Point] = []


def point(
    endpoint: str, level: str
) -> Callable[[Callable[[Repository], None]], Callable[[Repository], None]]:
    """Register a function as a point; its docstring says what is demanded."""

    def register(check: Callable[[Repository], None]) -> Callable[[Repository], None]:
        demand = " ".join((check.__doc__ or "").split()).rstrip(".")
        POINTS.append(Point(endpoint, level, demand, check))
        return check

    return register
