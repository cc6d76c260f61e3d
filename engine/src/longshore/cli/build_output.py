"""`longshore build --output`: where the result goes beside the image store."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from longshore.cli.build_extension import fields_of
from longshore.cli.client import ApiError
from longshore.cli.flags import invalid
from longshore.cli.unpack import unpack
from longshore.errors import EngineError

_TYPES = frozenset({"docker", "image", "local", "oci", "tar"})


@dataclass(frozen=True, slots=True)
class Output:
    type: str
    destination: str = ""  # a path; "-" is standard output


class _Client(Protocol):
    def request(
        self, method: str, path: str, query: Any = None, body: Any = None, headers: Any = None
    ) -> Any: ...


def parse_output(text: str) -> Output:
    """`FOLDER`, `-` (a tar) or `type=…,dest=…`. Raises FlagError."""
    if "=" not in text:
        return Output("tar", "-") if text == "-" else Output("local", text)
    fields = fields_of(text)
    kind, destination = fields.get("type", ""), fields.get("dest", "")
    if kind not in _TYPES:
        raise invalid("--output", text, f"type is one of {', '.join(sorted(_TYPES))}")
    if kind == "local" and not destination:
        raise invalid("--output", text, "type=local needs dest=FOLDER")
    if kind in ("oci", "tar") and not destination:
        destination = "-"
    return Output(kind, destination)


def write_output(client: _Client, image: str, output: Output, names: Sequence[str]) -> None:
    """Fetch the image or its files and write them. Raises EngineError."""
    if output.type == "image" or (output.type == "docker" and not output.destination):
        return  # it is in the store already
    if output.type in ("oci", "docker"):
        response = client.request("GET", "/images/get", {"names": list(names) or [image]})
        _save(_pieces(response), output.destination)
        return
    body = {"Image": image, "Cmd": ["true"], "NetworkDisabled": True}
    id = client.request("POST", "/containers/create", None, body).json()["Id"]
    try:
        files = client.request("GET", f"/containers/{id}/export")
        if output.type == "tar":
            _save(_pieces(files), output.destination)
        else:
            folder = Path(output.destination)
            folder.mkdir(parents=True, exist_ok=True)
            unpack(files.chunks(), folder, "", keep_owner=False, whole=True)
    finally:
        client.request("DELETE", f"/containers/{id}", {"force": True, "v": True})
        if not names:
            _forget(client, image)


def _forget(client: _Client, image: str) -> None:
    """The image was only made for its files."""
    try:
        client.request("DELETE", f"/images/{image}")
    except ApiError:
        pass  # it has a name, or somebody uses it


def _pieces(response: Any) -> Iterator[bytes]:
    yield from response.chunks()


def _save(pieces: Iterator[bytes], destination: str) -> None:
    if destination == "-":
        _write(pieces, sys.stdout.buffer)
        return
    try:
        with open(destination, "wb") as file:
            _write(pieces, file)
    except OSError as cause:
        raise EngineError(f"cannot write {destination}", detail=cause.strerror or str(cause)) from cause


def _write(pieces: Iterator[bytes], file: IO[bytes]) -> None:
    for piece in pieces:
        file.write(piece)
    file.flush()
