"""What `longshore build` asks for beyond the parameters of POST /build: the header X-Longshore-Build.

Its value is base64 of a JSON object. Secrets travel in it, so that they never are in a file of the daemon; contexts
beside the main one are folders of the same tar, below `CONTEXTS`.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from longshore.build.events import Event, Failed
from longshore.build.options import BuildOptions, CacheEntry
from longshore.errors import InvalidArgument

HEADER = "X-Longshore-Build"


class Entry(msgspec.Struct, frozen=True):
    type: str
    attributes: dict[str, str] = {}


class Extension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`secrets`: base64 by id; `ssh`: paths of agent sockets of this host by id; `events`: the answer's lines are
    events of the build (longshore.build.events), one object each, and not the classic builder's.
    """

    secrets: dict[str, str] = {}
    ssh: dict[str, str] = {}
    contexts: dict[str, str] = {}
    no_cache_stages: list[str] = []
    allow: list[str] = []
    annotations: dict[str, str] = {}
    cache_from: list[Entry] = []
    cache_to: list[Entry] = []
    rewrite_timestamp: bool = False
    check: bool = False
    events: bool = False


def extension_of(headers: Mapping[str, str]) -> Extension:
    """Raises InvalidArgument."""
    text = headers.get(HEADER, "")
    if not text:
        return Extension()
    try:
        return msgspec.json.decode(base64.b64decode(text, altchars=b"-_", validate=True), type=Extension)
    except (binascii.Error, msgspec.MsgspecError, RecursionError) as cause:
        raise InvalidArgument(f"invalid header {HEADER}", detail=str(cause)) from cause


def secrets_of(extension: Extension) -> dict[str, bytes]:
    """Raises InvalidArgument."""
    try:
        return {id: base64.b64decode(text, validate=True) for id, text in extension.secrets.items()}
    except binascii.Error as cause:
        raise InvalidArgument(f"invalid header {HEADER}", detail="secrets") from cause


def extended(options: BuildOptions, extension: Extension) -> BuildOptions:
    """The options with what the header adds."""
    return replace(
        options,
        contexts=extension.contexts,
        no_cache_stages=frozenset(extension.no_cache_stages),
        entitlements=frozenset(extension.allow),
        annotations=extension.annotations,
        cache_imports=tuple(CacheEntry(entry.type, entry.attributes) for entry in extension.cache_from),
        cache_exports=tuple(CacheEntry(entry.type, entry.attributes) for entry in extension.cache_to),
        rewrite_timestamp=extension.rewrite_timestamp,
        check=extension.check,
    )


def event_line(event: Event) -> dict[str, Any]:
    """One event as a line of the answer: its name and its fields."""
    if isinstance(event, Failed):
        body: dict[str, Any] = {
            "step": event.step,
            "error": str(event.error),
            "excerpt": event.excerpt,
            "at": event.at,
        }
    else:
        body = msgspec.to_builtins(event)
    return {"event": type(event).__name__.lower(), **body}


class EventLines:
    """Every event as it comes."""

    def feed(self, event: Event) -> list[dict[str, Any]]:
        return [event_line(event)]
