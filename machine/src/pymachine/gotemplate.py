"""The part of Go's templates that `--format` is used with: fields, `json`, `prettyjson`, `index`, and plain text.

Pure. Anything else is refused with a message, never printed half understood.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from pymachine.errors import InvalidInput

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
_PATH = re.compile(r"\.|(?:\.[A-Za-z_]\w*)+")
_ESCAPES = {r"\t": "\t", r"\n": "\n"}


def render(template: str, value: Mapping[str, Any]) -> str:
    """Fill in a template. Raises InvalidInput for what it cannot do and for fields that do not exist."""
    text = re.sub(r"\\[tn]", lambda found: _ESCAPES[found[0]], template)  # shells leave them for us
    if "{{" in _ACTION.sub("", text):
        raise InvalidInput(f"the template {template!r} has an unclosed '{{{{'")
    return _ACTION.sub(lambda found: _action(found[1], value), text)


def _action(action: str, value: Mapping[str, Any]) -> str:
    words = _WORD.findall(action)
    match words:
        case [path] if _PATH.fullmatch(path):
            return _show(_lookup(path, value))
        case ["json", path] if _PATH.fullmatch(path):
            return json.dumps(_lookup(path, value), separators=(",", ":"))
        case ["prettyjson", path] if _PATH.fullmatch(path):
            return json.dumps(_lookup(path, value), indent=4)
        case ["index", path, key] if _PATH.fullmatch(path):
            return _show(_index(_lookup(path, value), key))
        case _:
            raise InvalidInput(
                f"the template part '{{{{{action}}}}}' is not understood",
                hint="use {{.Field.Field}}, {{json .Field}}, {{prettyjson .Field}} or {{index .Field KEY}}",
            )


def _lookup(path: str, value: object) -> object:
    for field in path.split(".")[1:]:
        if not field:
            continue
        if not isinstance(value, Mapping) or field not in value:
            raise InvalidInput(f"there is no field {field!r} for '{{{{{path}}}}}'")
        value = cast(Mapping[str, object], value)[field]
    return value


def _index(value: object, key: str) -> object:
    try:
        if key.startswith('"'):
            return cast(Mapping[str, object], value)[str(json.loads(key))]
        return cast(list[object], value)[int(key)]
    except (KeyError, IndexError, TypeError, ValueError) as cause:
        raise InvalidInput(f"there is no element {key}") from cause


def _show(value: object) -> str:
    """As Go prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "<no value>"
    if isinstance(value, list):
        return f"[{' '.join(_show(item) for item in cast(list[object], value))}]"
    if isinstance(value, Mapping):
        items = sorted(cast(Mapping[str, object], value).items())
        return f"map[{' '.join(f'{key}:{_show(item)}' for key, item in items)}]"
    return str(value)
