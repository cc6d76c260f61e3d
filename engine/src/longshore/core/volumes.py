"""Volumes as users know them: names, labels and who uses them, over the store of folders."""

from collections.abc import Mapping, Sequence

import msgspec

from longshore.core.model import VolumeRequest


class Volume(msgspec.Struct):
    name: str
    created: str
    driver: str = "local"
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    anonymous: bool = False
    mountpoint: str = ""


class Volumes:
    def create(self, request: VolumeRequest, *, anonymous: bool = False) -> Volume:
        """Twice with the same name gives the same volume."""
        ...

    def get(self, name: str) -> Volume:
        """NotFound("get x: no such volume")."""
        ...

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[Volume]: ...
    async def remove(self, name: str, *, force: bool = False) -> None: ...
    async def prune(self, filters: Mapping[str, Sequence[str]]) -> tuple[list[str], int]: ...
