"""The registry's pure parts: paths, names, ranges, manifests, settings."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from longshore.cli.registry import serve_words
from longshore.errors import InvalidArgument
from longshore.registry.server.manifests import judge
from longshore.registry.server.names import check_name, check_reference
from longshore.registry.server.ranges import parse_chunk_range, parse_range
from longshore.registry.server.refusals import Refused
from longshore.registry.server.routes import find_route
from longshore.registry.server.settings import Settings, make_settings, parse_duration, read_settings

D = "sha256:" + "a" * 64
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.mark.parametrize(
    ("method", "path", "kind", "name", "argument"),
    [
        ("GET", "/v2/", "base", "", ""),
        ("GET", "/v2/_catalog", "catalog", "", ""),
        ("GET", "/v2/a/b/tags/list", "tags", "a/b", ""),
        ("GET", f"/v2/a/blobs/{D}", "blob", "a", D),
        ("GET", "/v2/a/blobs/sha256%3A" + "a" * 64, "blob", "a", D),
        ("POST", "/v2/a/blobs/uploads/", "uploads", "a", ""),
        ("POST", "/v2/a/blobs/uploads", "uploads", "a", ""),
        ("PATCH", "/v2/a/blobs/uploads/xyz", "upload", "a", "xyz"),
        ("PUT", "/v2/blobs/manifests/manifests/v1", "manifest", "blobs/manifests", "v1"),
        ("GET", f"/v2/a/b/c/referrers/{D}", "referrers", "a/b/c", D),
    ],
)
def test_paths(method: str, path: str, kind: str, name: str, argument: str) -> None:
    route = find_route(method, path)
    assert (route.kind, route.name, route.argument) == (kind, name, argument)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/a", 404),
        ("GET", "/v2//tags/list", 404),
        ("GET", "/v2/../tags/list", 400),
        ("GET", "/v2/a%2f..%2fb/tags/list", 400),
        ("GET", "/v2/a%00/tags/list", 400),
        ("GET", "/v2/A/tags/list", 400),
        ("GET", f"/v2/{'a' * 256}/tags/list", 400),
        ("POST", "/v2/a/tags/list", 405),
        ("DELETE", "/v2/", 405),
    ],
)
def test_paths_that_mean_nothing(method: str, path: str, status: int) -> None:
    with pytest.raises(Refused) as refused:
        find_route(method, path)
    assert refused.value.status == status


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "..", "a/../b", ".a", "a.", "a_", "a___b", "A", "a\n"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(Refused):
        check_name(name)


@pytest.mark.parametrize(
    "text", ["", ".a", "-a", "x" * 129, "a/b", "sha256:abc", "sha256:" + "A" * 64, "a\n"]
)
def test_bad_references(text: str) -> None:
    with pytest.raises(Refused):
        check_reference(text, writing=True)


@pytest.mark.parametrize(
    ("header", "size", "wanted"),
    [
        ("bytes=0-0", 10, (0, 1)),
        ("bytes=2-5", 10, (2, 4)),
        ("bytes=2-", 10, (2, 8)),
        ("bytes=-3", 10, (7, 3)),
        ("bytes=-30", 10, (0, 10)),
        ("bytes=5-99999999999999999999", 10, (5, 5)),
        ("bytes=0-1,3-4", 10, None),
        ("lines=1-2", 10, None),
        ("bytes=-", 10, None),
        ("", 10, None),
    ],
)
def test_ranges(header: str, size: int, wanted: object) -> None:
    assert parse_range(header, size) == wanted


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=5-3", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_unsatisfiable_ranges(header: str, size: int) -> None:
    with pytest.raises(Refused) as refused:
        parse_range(header, size)
    assert refused.value.status == 416
    assert refused.value.headers["Content-Range"] == f"bytes */{size}"


def test_chunk_ranges() -> None:
    assert parse_chunk_range("0-4") == (0, 5)
    assert parse_chunk_range("bytes 5-9/*") == (5, 5)
    for header in ("", "5", "9-5", "-5", "a-b", "0-" + "9" * 30):
        with pytest.raises(Refused):
            parse_chunk_range(header)


def _manifest(**more: object) -> bytes:
    config = {"mediaType": "application/x", "digest": D, "size": 2}
    return json.dumps({"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [], **more}).encode()


def test_artifact_type_is_that_of_the_config_without_another() -> None:
    assert judge(_manifest(), OCI).artifact_type == "application/x"
    assert judge(_manifest(artifactType="application/y"), OCI).artifact_type == "application/y"


def test_an_index_names_manifests() -> None:
    entry = {"mediaType": OCI, "digest": D, "size": 3}
    data = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    judged = judge(data, f"{INDEX}; charset=utf-8")
    assert [(target.is_manifest, target.size) for target in judged.targets] == [(True, 3)]
    assert judged.media_type == INDEX


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", OCI),
        (b"[]", OCI),
        (b"\xff", OCI),
        (b"[" * 100_000, OCI),
        (_manifest(mediaType=INDEX), OCI),
        (_manifest(manifests=[]), OCI),
        (_manifest(schemaVersion=1), OCI),
        (_manifest(layers=[{"mediaType": "x", "digest": "sha256:../../etc", "size": 1}]), OCI),
        (_manifest(layers=[{"mediaType": "x", "digest": D, "size": -1}]), OCI),
        (_manifest(layers=None), OCI),
        (_manifest(), INDEX),
        (_manifest(), "text/html"),
        (b'{"schemaVersion": 2, "manifests": []}', "application/vnd.docker.distribution.manifest.v1+json"),
    ],
)
def test_refused_manifests(data: bytes, kind: str) -> None:
    with pytest.raises(Refused) as refused:
        judge(data, kind)
    assert refused.value.code.name == "MANIFEST_INVALID"


def test_debians_own_configuration_is_read() -> None:
    settings = make_settings(
        {
            "version": 0.1,
            "log": {"fields": {"service": "registry"}},
            "storage": {
                "cache": {"blobdescriptor": "inmemory"},
                "filesystem": {"rootdirectory": "/var/lib/docker-registry"},
                "delete": {"enabled": True},
            },
            "http": {"addr": "localhost:5000", "headers": {"X-Content-Type-Options": ["nosniff"]}},
            "health": {"storagedriver": {"enabled": True, "interval": "10s", "threshold": 3}},
        }
    )
    assert str(settings.root) == "/var/lib/docker-registry"


def test_durations() -> None:
    assert [parse_duration(text) for text in ("1h30m", "500ms", "0", 5, "168h")] == [5400, 0.5, 0, 5, 604800]
    for text in ("", "5 parsecs", "-1s", "h"):
        with pytest.raises(InvalidArgument):
            parse_duration(text)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["http.addr=0.0.0.0:5000"], "refusing to serve plain HTTP"),
        (["http.addr=:5000"], "refusing to serve plain HTTP"),
        (["http.addr=5000"], "invalid address"),
        (["http.adr=:5000"], "adr"),
        (["nonsense"], "invalid setting"),
        (["auth.token.realm=x"], "service"),
        (["http.tls.certificate=x"], "both certificate and key"),
        (["gc.interval=soon"], "invalid duration"),
        (["http.addr=127.0.0.1:1", "auth.htpasswd.path=x", "auth.tokenservice.path=y"], "one kind"),
    ],
)
def test_refused_settings(words: list[str], text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_settings("", words)
    assert text in str(refused.value)


def test_flags_of_serve_are_keys() -> None:
    flags = dict.fromkeys(("htpasswd", "proxy", "log_level"), "")
    flags |= {"root": "/x", "tls_cert": "c", "tls_key": "k", "addr": ":1", "debug_addr": ":2"}
    settings = read_settings("", serve_words(("ca.pem",), True, True, ["gc.grace=5s"], **flags))
    assert settings.http.addr == ":1" and settings.http.plain and settings.http.debug.prometheus.enabled
    assert settings.storage.maintenance.readonly.enabled and settings.gc.grace == 5
    assert settings.http.tls.clientcas == [str(Path("ca.pem").absolute())]


def _keys(kind: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, default) of a part of the settings."""
    for field in msgspec.structs.fields(kind):
        parts = [each for each in get_args(field.type) or (field.type,) if each is not type(None)]
        part = parts[0]
        if isinstance(part, type) and issubclass(part, msgspec.Struct) and get_origin(field.type) is not list:
            yield from _keys(part, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field.default


def test_every_setting_is_on_the_page_with_its_default() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/reference/registry-settings.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z.]+)` \|([^|]*)\|", page, re.MULTILINE))
    ignored = set(re.findall(r"`([a-z0-9.]+)`", page.partition("Read and ignored")[2]))
    found = dict(_keys(Settings))
    assert set(found) == set(rows) | ignored
    for key, shown in rows.items():
        default = found[key]
        if isinstance(default, float):
            assert parse_duration(shown.strip("` ")) == default, key
        elif isinstance(default, bool | int):
            assert shown.strip("` ") == str(default).lower(), key
        elif isinstance(default, str):
            assert shown.strip("` ") == default, key
