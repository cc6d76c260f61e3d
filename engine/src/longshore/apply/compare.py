"""Wanted against existing: the difference as a value, and what it takes to close it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

from longshore.apply.normalise import Options

# What POST /containers/{id}/update changes without a new container
LIVE = frozenset(
    f"HostConfig.{name}"
    for name in (
        "BlkioWeight",
        "CpuPeriod",
        "CpuQuota",
        "CpuShares",
        "CpusetCpus",
        "CpusetMems",
        "Memory",
        "MemoryReservation",
        "MemorySwap",
        "NanoCpus",
        "PidsLimit",
        "RestartPolicy",
    )
)
_BY_ENTRY = ("Env", "Labels")  # compared and shown entry by entry


class Verdict(StrEnum):
    KEEP = "keep"
    UPDATE = "update"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Difference:
    """What changes, with the same keys on both sides as far as they exist there."""

    before: Mapping[str, Any] = field(default_factory=dict[str, Any])
    after: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __bool__(self) -> bool:
        return bool(self.before or self.after)

    @property
    def keys(self) -> list[str]:
        return sorted({*self.before, *self.after})

    def merge(self, other: "Difference") -> "Difference":
        return Difference({**self.before, **other.before}, {**self.after, **other.after})


def compare(wanted: Options, stored: Options, *, partial: bool = False) -> Difference:
    """The difference between two normal forms; `Image` is left to the caller, who compares by id.

    partial: only what is wanted counts. That is how containers are compared that something else made
    (their creator's options are no business of ours), and requests that name no image.
    """
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for key in sorted({*wanted} if partial else {*wanted, *stored}):
        new, old = wanted.get(key), stored.get(key)
        if key == "Image" or new == old:
            continue
        if key in _BY_ENTRY:
            old_entries, new_entries = _entries(old or {}, new or {}, partial=partial)
            before.update({key: old_entries} if old_entries else {})
            after.update({key: new_entries} if new_entries else {})
            continue
        before.update({key: old} if old is not None else {})
        after.update({key: new} if new is not None else {})
    return Difference(before, after)


def _entries(
    old: Mapping[str, str], new: Mapping[str, str], *, partial: bool
) -> tuple[dict[str, str], dict[str, str]]:
    changed = {name for name in ({*new} if partial else {*old, *new}) if old.get(name) != new.get(name)}
    return (
        {name: old[name] for name in sorted(changed) if name in old},
        {name: new[name] for name in sorted(changed) if name in new},
    )


def verdict(difference: Difference) -> Verdict:
    if not difference:
        return Verdict.KEEP
    live = set(difference.keys) <= LIVE
    # An update cannot take a limit away (zero is "not given" to it), so that needs a new container.
    removed = any(key not in difference.after for key in difference.keys if key != "HostConfig.RestartPolicy")
    return Verdict.UPDATE if live and not removed else Verdict.REPLACE


def update_body(difference: Difference, options: Options) -> dict[str, Any]:
    """The body for POST /containers/{id}/update; `options` is the normal form afterwards."""
    body: dict[str, Any] = {key.removeprefix("HostConfig."): value for key, value in difference.after.items()}
    if body.get("Memory", 0) > 0 and "HostConfig.MemorySwap" not in options:
        # Unset, it became twice the old memory when the container was made, and would now stand in the way
        body["MemorySwap"] = 2 * body["Memory"]
    if "HostConfig.RestartPolicy" in difference.before and "RestartPolicy" not in body:
        body["RestartPolicy"] = {"Name": "no", "MaximumRetryCount": 0}
    return body


def overlay(stored: Options, wanted: Options) -> Options:
    """What a container is wanted to be when the request names only a part of it."""
    merged = {**stored, **wanted}
    for key in _BY_ENTRY:
        if key in stored and key in wanted:
            merged[key] = {**cast("dict[str, str]", stored[key]), **cast("dict[str, str]", wanted[key])}
    return dict(sorted(merged.items()))
