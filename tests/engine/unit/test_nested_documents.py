"""Attack 19: documents that nest without end reach every parser; each has to say no, none may use up the stack."""

from collections.abc import Callable

import pytest

from longshore.apply.request import parse_request
from longshore.core.model import CreateRequest, decode
from longshore.core.seccomp import parse_profile
from longshore.errors import EngineError
from longshore.oci.dockerfile_instruction import parse_instruction
from longshore.oci.image_config import parse_image_config
from longshore.oci.manifest import parse_manifest

DEEP = 100_000
PARSERS: dict[str, Callable[[bytes], object]] = {
    "create": lambda data: decode(data, CreateRequest),
    "apply": parse_request,
    "seccomp profile": lambda data: parse_profile(data.decode(), (), "x86_64"),
    "manifest": lambda data: parse_manifest(data, "application/vnd.oci.image.manifest.v1+json"),
    "image config": parse_image_config,
}


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize(
    "document",
    [
        b'{"x":' * DEEP,
        b"[" * DEEP,
        b'{"x":' * DEEP + b"1" + b"}" * DEEP,
        b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    ],
    ids=["objects", "lists", "closed objects", "closed lists"],
)
def test_attack_19_nesting_without_end(name: str, document: bytes) -> None:
    """Fails when a parser lets RecursionError through: the client gets a 500 and the log a traceback."""
    with pytest.raises(EngineError):
        PARSERS[name](document)


def test_attack_19_a_command_that_nests_without_end() -> None:
    """Fails when RecursionError is let through: what is no list of words is a line for the shell."""
    text = "[" * DEEP + "]" * DEEP
    assert parse_instruction(1, f"CMD {text}").words is None
