"""Dockerfile instructions that only change the container defaults, as `import`, `commit --change` and build use them.

Pure: text and value in, value out. The syntax is the Dockerfile reference's
(https://docs.docker.com/reference/dockerfile/) for one logical line.
"""

import json
import re
from collections.abc import Callable
from typing import cast

from msgspec.structs import replace

from longshore.errors import InvalidArgument
from longshore.oci.image_config import ContainerDefaults

_DEFAULT_SHELL = ["/bin/sh", "-c"]
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


def apply_change(config: ContainerDefaults, instruction: str) -> ContainerDefaults:
    """The defaults after one instruction such as `CMD ["sh"]` or `ENV A=1 B=2`.

    Raises InvalidArgument for an unknown instruction or a bad argument.
    """
    name, _, argument = instruction.strip().partition(" ")
    name, argument = name.upper(), argument.strip()
    handler = _HANDLERS.get(name)
    if handler is None:
        raise InvalidArgument(f"{name} is not a valid change command", detail=repr(instruction[:200]))
    if not argument:
        raise InvalidArgument(f"{name} requires an argument", detail=repr(instruction[:200]))
    return handler(config, argument)


def set_env(env: list[str] | None, name: str, value: str) -> list[str]:
    """The environment with one variable set; a variable keeps its place."""
    result = list(env or [])
    for index, item in enumerate(result):
        if item.partition("=")[0] == name:
            result[index] = f"{name}={value}"
            return result
    return [*result, f"{name}={value}"]


def split_words(text: str) -> list[str]:
    """Split on blanks, honouring quotes and backslashes; the quotes are removed.

    Raises InvalidArgument for a quote that is not closed.
    """
    words: list[str] = []
    word, quote, started = "", "", False
    characters = iter(text)
    for char in characters:
        if char == "\\" and quote != "'":
            word, started = word + next(characters, "\\"), True
        elif quote:
            if char == quote:
                quote = ""
            else:
                word += char
        elif char in "\"'":
            quote, started = char, True
        elif char.isspace():
            if started:
                words.append(word)
            word, started = "", False
        else:
            word, started = word + char, True
    if quote:
        raise InvalidArgument("unterminated quote", detail=repr(text[:200]))
    return [*words, word] if started else words


def parse_command(text: str) -> tuple[list[str], bool]:
    """A command's words and whether it was in exec (JSON) form; the shell form is one word."""
    if text.startswith("["):
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError):
            return [text], False  # Docker: what is no JSON is a shell command, brackets included
        if isinstance(value, list) and all(isinstance(word, str) for word in cast("list[object]", value)):
            return cast("list[str]", value), True
    return [text], False


def _command(config: ContainerDefaults, argument: str) -> list[str]:
    words, is_exec = parse_command(argument)
    return words if is_exec else [*(config.shell or _DEFAULT_SHELL), *words]


def _pairs(argument: str, instruction: str) -> list[tuple[str, str]]:
    """`K=V K2=V2`, or the old `K the rest`."""
    words = split_words(argument)
    if words and "=" not in words[0]:
        name, _, rest = argument.partition(" ")
        if not rest.strip():
            raise InvalidArgument(f"{instruction} must have two arguments", detail=repr(argument[:200]))
        return [(name, rest.strip())]
    pairs: list[tuple[str, str]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InvalidArgument(
                f"syntax error - can't find = in {word[:100]!r}. Must be of the form: name=value"
            )
        if not name:
            raise InvalidArgument(f"{instruction} names can not be blank")
        pairs.append((name, value))
    return pairs


def _cmd(config: ContainerDefaults, argument: str) -> ContainerDefaults:
    return replace(config, cmd=_command(config, argument))


def _entrypoint(config: ContainerDefaults, argument: str) -> ContainerDefaults:
    return replace(config, entrypoint=_command(config, argument))


def _env(config: ContainerDefaults, argument: str) -> ContainerDefaults:
    env = config.env
    for name, value in _pairs(argument, "ENV"):
        env = set_env(env, name, value)
    return replace(config, env=env)


def _label(config: ContainerDefaults, argument: str) -> ContainerDefaults:
    return replace(config, labels={**(config.labels or {}), **dict(_pairs(argument, "LABEL"))})


def _expose(config: ContainerDefaults, argument: str) -> ContainerDefaults:
    ports = dict(config.exposed_ports or {})
    for word in split_words(argument):
        match = _PORT.fullmatch(word)
        if not match:
            raise InvalidArgument(f"invalid containerPort: {word[:100]}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 < first <= last <= 65535:
            raise InvalidArgument(f"invalid containerPort: {word[:100]}")
        ports |= {f"{port}/{(match[3] or 'tcp').lower()}": {} for port in range(first, last + 1)}
    return replace(config, exposed_ports=ports)


def _user(config: ContainerDefaults, argument: str) -> ContainerDefaults:
    if len(split_words(argument)) != 1:
        raise InvalidArgument("USER requires exactly one argument")
    return replace(config, user=argument)


def _volume(config: ContainerDefaults, argument: str) -> ContainerDefaults:
    words, is_exec = parse_command(argument)
    names = words if is_exec else split_words(argument)
    if not all(names):
        raise InvalidArgument("VOLUME specified can not be an empty string")
    return replace(config, volumes={**(config.volumes or {}), **{name: {} for name in names}})


def _workdir(config: ContainerDefaults, argument: str) -> ContainerDefaults:
    base = config.working_dir or "/"
    joined = argument if argument.startswith("/") else f"{base}/{argument}"
    parts: list[str] = []
    for part in joined.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return replace(config, working_dir="/" + "/".join(parts))


def _onbuild(config: ContainerDefaults, argument: str) -> ContainerDefaults:
    trigger = argument.split(maxsplit=1)[0].upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    return replace(config, on_build=[*(config.on_build or []), argument])


def _stopsignal(config: ContainerDefaults, argument: str) -> ContainerDefaults:
    return replace(config, stop_signal=argument)


def _shell(config: ContainerDefaults, argument: str) -> ContainerDefaults:
    words, is_exec = parse_command(argument)
    if not is_exec or not words:
        raise InvalidArgument("SHELL requires the arguments to be in JSON form")
    return replace(config, shell=words)


_HANDLERS: dict[str, Callable[[ContainerDefaults, str], ContainerDefaults]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
