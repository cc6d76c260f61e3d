"""What `longshore build` says beyond the classic builder's parameters: secrets, agents, contexts. One header."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longshore.cli.flags import invalid

HEADER = "X-Longshore-Build"
CONTEXTS = ".longshore-contexts"  # below it the tar has the folders that are named contexts


def extension_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The flags as the header's object, {} where none of them is given. Raises FlagError."""
    contexts: dict[str, str] = {}
    for text in given["build_contexts"]:
        name, _, value = text.partition("=")
        local = "://" not in value and not value.startswith("git@")
        contexts[name.lower()] = f"local:{name.lower()}" if local else value
    values: dict[str, Any] = {
        "secrets": dict(_secret(text) for text in given["secrets"]),
        "ssh": dict(_agent(text) for text in given["ssh"]),
        "contexts": contexts,
        "no_cache_stages": list(given["no_cache_filter"]),
        "allow": list(given["allow"]),
        "rewrite_timestamp": any("rewrite-timestamp=true" in text for text in given["outputs"]),
        "cache_from": [_cache(text) for text in given["cache_from"] if "type=" in text],
        "cache_to": [_cache(text) for text in given["cache_to"]],
        "check": given["check"],
        "events": given["check"] or given["progress"] in ("plain", "rawjson"),
    }
    return {name: value for name, value in values.items() if value}


def encoded(extension: Mapping[str, Any]) -> dict[str, str]:
    if not extension:
        return {}
    return {HEADER: base64.urlsafe_b64encode(json.dumps(extension).encode()).decode()}


def fields_of(text: str) -> dict[str, str]:
    """`a=1,b=2` as a mapping."""
    return {name: value for name, _, value in (part.partition("=") for part in text.split(","))}


def _secret(text: str) -> tuple[str, str]:
    """`id=ID,src=FILE` or `id=ID,env=VARIABLE`; a bare id is a variable or a file of that name."""
    fields = fields_of(text) if "=" in text else {"id": text}
    id = fields.get("id", "")
    source, variable = fields.get("src") or fields.get("source"), fields.get("env", "")
    if not id:
        raise invalid("--secret", text, "write id=ID,src=FILE or id=ID,env=VARIABLE")
    if not source and not variable:
        variable, source = (id, "") if id in os.environ else ("", id)
    if variable:
        if variable not in os.environ:
            raise invalid("--secret", text, f"the environment has no {variable}")
        data = os.environb[os.fsencode(variable)]
    else:
        try:
            data = Path(str(source)).expanduser().read_bytes()
        except OSError as cause:
            raise invalid("--secret", text, f"{source}: {cause.strerror}") from cause
    return id, base64.b64encode(data).decode()


def _cache(text: str) -> dict[str, object]:
    fields = fields_of(text)
    return {"type": fields.pop("type", "registry"), "attributes": fields}


def _agent(text: str) -> tuple[str, str]:
    id, _, path = text.partition("=")
    path = path or os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise invalid("--ssh", text, "there is no agent: SSH_AUTH_SOCK is not set")
    if not Path(path).is_socket():
        raise invalid("--ssh", text, f"{path} is no socket of an agent")
    return id or "default", str(Path(path).resolve())
