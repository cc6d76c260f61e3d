# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ship an image from the controller's engine to a host's: only blobs the host lacks travel. Private to the collection."""

from __future__ import annotations

import http.client
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ansible_collections.longshore.fleet.plugins.module_utils._engine import (
    Client,
    EngineError,
    Request,
    socket_path,
)

INLINE_LIMIT = 4 << 20  # what is smaller goes through the relay's standard input in one round
KIND = "application/octet-stream"

# A file of the controller, copied to the host for the length of the context, which gives its path there
Upload = Callable[[str], AbstractContextManager[str]]


# Writes the blob of a digest to a file
Download = Callable[[str, BinaryIO], None]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("longshore")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def engine_download(controller_socket: str) -> Download:
    """Blobs of the controller's engine, streamed: a layer may be larger than the controller's memory."""
    path = socket_path(controller_socket)

    def download(digest: str, sink: BinaryIO) -> None:
        connection = _UnixConnection(path)
        try:
            connection.request("GET", f"/longshore/v1/blobs/{digest}")
            with connection.getresponse() as reply:
                if reply.status != 200:
                    raise EngineError(f"cannot read blob {digest} on the controller: {reply.read(500)!r}")
                shutil.copyfileobj(reply, sink, 1 << 20)
        except (OSError, http.client.HTTPException) as cause:
            raise EngineError(f"cannot read blob {digest} on the controller: {cause}") from cause
        finally:
            connection.close()

    return download


class Blob(NamedTuple):
    digest: str
    size: int


class Parcel(NamedTuple):
    """What has to be done for one host. `missing` blobs travel, `present` ones do not."""

    contents: dict[str, Any]
    missing: tuple[Blob, ...]
    present: tuple[Blob, ...]
    same: bool  # the name stands for this image on the host already

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.missing)


def blobs_of(contents: dict[str, Any]) -> list[Blob]:
    """Every blob of an image once, the layers first, so that a manifest never arrives before what it names."""
    found: dict[str, Blob] = {}
    for part in [*contents["layers"], contents["config"], contents.get("manifest")]:
        if isinstance(part, dict) and part.get("digest"):
            found.setdefault(part["digest"], Blob(part["digest"], int(part.get("size") or 0)))
    return list(found.values())


def inspect_parcel(source: Client, target: Client, name: str) -> Parcel:
    """One short round to the host; changes nothing. Raises EngineError when the controller does not have the image."""
    contents = source.find(f"/longshore/v1/images/{name}/contents")
    if contents is None:
        raise EngineError(
            f"No such image: {name} on the controller (build it there, or give the engine's socket as controller_socket)"
        )
    blobs = blobs_of(contents)
    asked = {"digests": [blob.digest for blob in blobs]}
    found, answer = target.batch(
        [
            Request("GET", f"/images/{name}/json", accept=(404,)),
            Request("POST", "/longshore/v1/blobs/missing", asked),
        ]
    )
    if found.status == 200 and found.json()["Id"] == contents["id"]:
        return Parcel(contents, (), tuple(blobs), True)
    missing = set(answer.json()["missing"])
    return Parcel(
        contents,
        tuple(blob for blob in blobs if blob.digest in missing),
        tuple(blob for blob in blobs if blob.digest not in missing),
        False,
    )


def ship(download: Download, target: Client, name: str, parcel: Parcel, upload: Upload) -> None:
    """Send what is missing, then register the image. An interrupted run goes on where it stopped: blobs stay.

    Small blobs and the registration share a round; a large one goes by the connection's file transfer.
    """
    waiting: list[Request] = []
    for blob in parcel.missing:
        path = f"/longshore/v1/blobs/{blob.digest}"
        with tempfile.NamedTemporaryFile(prefix="longshore-blob-") as here:
            download(blob.digest, here)
            here.flush()
            size = here.tell()
            if size != blob.size:
                raise EngineError(f"blob {blob.digest} has {size} bytes, {blob.size} were announced")
            if size > INLINE_LIMIT:
                with upload(here.name) as there:
                    target.call("PUT", path, body_file=(there, size), kind=KIND)
                continue
            if sum(len(request.data or b"") for request in waiting) + size > INLINE_LIMIT:
                target.batch(waiting)
                waiting = []
            waiting.append(Request("PUT", path, data=Path(here.name).read_bytes(), kind=KIND))
    target.batch([*waiting, Request("PUT", f"/longshore/v1/images/{name}", parcel.contents)])
