"""Fixtures of the tests of single operations."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.engine.compat.wire import Made, Stream


@pytest.fixture
def make(daemon: Any) -> Iterator[Made]:
    """Create (and by default start) a container of busybox; the last words are its command."""

    def one(*command: str, name: str = "", start: bool = True, **config: Any) -> str:
        body = {"Image": "busybox", "Cmd": list(command), **config}
        status, reply = daemon.request("POST", f"/containers/create?name={name}", body)
        assert status == 201, reply
        if start:
            assert daemon.request("POST", f"/containers/{reply['Id']}/start") == (204, b"")
        return str(reply["Id"])

    yield one
    daemon.remove_containers()
    daemon.request("POST", '/volumes/prune?filters={"all":["true"]}')


@pytest.fixture
def stream(daemon: Any) -> Iterator[Callable[..., Stream]]:
    opened: list[Stream] = []

    def one(method: str, path: str, body: Any = None, **headers: str) -> Stream:
        opened.append(Stream(daemon, method, path, body, **headers))
        return opened[-1]

    yield one
    for each in opened:
        each.close()
