"""Paths to handlers, versions, errors to statuses. No sockets."""

import errno

import pytest

from longshore import errors
from longshore.api.errors import STATUSES, error_reply, status_of
from longshore.api.http import AnyReply, Reply, Request, Route
from longshore.api.routes import Router, check_version, split_target
from longshore.api.server import collect_routes, refuse_browsers
from longshore.errors import InvalidArgument


async def handler(request: Request) -> AnyReply:
    return Reply()


TABLE = [
    Route("GET", "/images/json", handler),
    Route("GET", "/images/{name:path}/json", handler),
    Route("GET", "/images/{name:path}/get", handler),
    Route("GET", "/images/get", handler),
    Route("DELETE", "/images/{name:path}", handler),
    Route("GET", "/containers/{id}/json", handler),
    Route("POST", "/containers/{id}/start", handler),
]


@pytest.mark.parametrize(
    ("method", "path", "pattern", "parameters"),
    [
        ("GET", "/images/json", "/images/json", {}),
        ("GET", "/images/busybox/json", "/images/{name:path}/json", {"name": "busybox"}),
        ("GET", "/images/a.b:5000/c/d:1/json", "/images/{name:path}/json", {"name": "a.b:5000/c/d:1"}),
        ("GET", "/images/json/json", "/images/{name:path}/json", {"name": "json"}),
        ("DELETE", "/images/a/b", "/images/{name:path}", {"name": "a/b"}),
        ("GET", "/containers/x/json", "/containers/{id}/json", {"id": "x"}),
    ],
)
def test_a_path_finds_its_route(method: str, path: str, pattern: str, parameters: dict[str, str]) -> None:
    found = Router(TABLE).find(method, path)
    assert found is not None
    assert (found.route.pattern, dict(found.parameters)) == (pattern, parameters)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/containers/a/b/json"),
        ("POST", "/containers/x/json"),
        ("GET", "/containers//json"),
        ("GET", "/nothing"),
        ("GET", "/"),
    ],
)
def test_other_paths_find_nothing(method: str, path: str) -> None:
    assert Router(TABLE).find(method, path) is None


def test_two_handlers_for_one_path_are_a_defect() -> None:
    with pytest.raises(ValueError, match="two handlers"):
        Router([Route("GET", "/a", handler), Route("GET", "/a", handler)])


def test_the_tables_of_all_modules_fit_together() -> None:
    router = Router(collect_routes())
    for method, path in (("GET", "/_ping"), ("POST", "/images/load"), ("PUT", "/longshore/v1/images/a/b")):
        assert router.find(method, path) is not None


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v1.47/info", ((1, 47), "/info", "")),
        ("/info?a=1", (None, "/info", "a=1")),
        ("/v1/info", ((1,), "/info", "")),
        ("/images/a%2Fb%3A1/json", (None, "/images/a/b:1/json", "")),
        ("/version", (None, "/version", "")),
        ("http://docker/v1.30/_ping", ((1, 30), "/_ping", "")),
    ],
)
def test_targets_are_split(target: str, expected: object) -> None:
    assert split_target(target) == expected


def test_versions_outside_of_what_is_served_are_refused_in_dockers_words() -> None:
    assert check_version(None) == (1, 47)
    assert check_version((1, 24)) == (1, 24)
    with pytest.raises(
        InvalidArgument, match=r"^client version 1\.23 is too old\. Minimum supported API version is 1\.24"
    ):
        check_version((1, 23))
    with pytest.raises(
        InvalidArgument, match=r"^client version 1\.99 is too new\. Maximum supported API version is 1\.47"
    ):
        check_version((1, 99))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFound("x"), 404),
        (errors.Conflict("x"), 409),
        (errors.StartFailed("x", errno=errno.ENOENT), 400),
        (errors.StartFailed("x", errno=errno.EACCES), 400),
        (errors.StartFailed("x", errno=errno.EIO), 500),
        (type("Special", (errors.Conflict,), {})("x"), 409),
        (errors.EngineError("x"), 500),
    ],
)
def test_errors_have_their_documented_status(error: errors.EngineError, status: int) -> None:
    assert status_of(error) == status


def test_every_kind_of_error_is_in_the_table() -> None:
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.EngineError) and kind is not errors.EngineError
    }
    assert kinds == set(STATUSES)


def test_an_error_reply_carries_what_detail_and_hint() -> None:
    reply = error_reply(errors.Conflict("name is used", detail="by x", hint="rename it"))
    assert (reply.status, reply.body) == (409, {"message": "name is used: by x (rename it)"})
    assert error_reply(errors.NotModified("x")).body is None


@pytest.mark.parametrize(
    ("headers", "names", "refused"),
    [
        ({"host": "anything"}, None, False),
        ({"host": "docker", "origin": "http://evil"}, None, True),
        ({"host": "docker", "sec-fetch-site": "cross-site"}, None, True),
        ({"host": "127.0.0.1:2376"}, frozenset[str](), False),
        ({"host": "[::1]:2376"}, frozenset[str](), False),
        ({"host": "localhost"}, frozenset[str](), False),
        ({"host": "evil.example:2376"}, frozenset[str](), True),
        ({"host": "web1.example:2376"}, frozenset({"web1.example"}), False),
        ({}, frozenset[str](), True),
    ],
)
def test_attack_11_web_pages_and_foreign_names_are_refused(
    headers: dict[str, str], names: frozenset[str] | None, refused: bool
) -> None:
    """Fails when Origin and Host are not looked at."""
    if refused:
        with pytest.raises(errors.Forbidden):
            refuse_browsers(headers, names)
    else:
        refuse_browsers(headers, names)
