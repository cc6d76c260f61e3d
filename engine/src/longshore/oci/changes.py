"""Instructions that only change an image's configuration, for builds as for `import` and `commit --change`.

Pure: configuration in, configuration out. The rules are the Dockerfile reference's
(https://docs.docker.com/reference/dockerfile/), the words of a history those of dockerd's classic builder.
"""

import json
import posixpath
import re
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from longshore.errors import InvalidArgument
from longshore.oci.dockerfile_instruction import Instruction, parse_instruction
from longshore.oci.dockerfile_words import expand, expand_words, parse_pairs
from longshore.oci.image_config import ContainerDefaults, Healthcheck
from longshore.oci.units import go_duration, parse_duration

DEFAULT_SHELL = ["/bin/sh", "-c"]
# What `--change` may say: dockerd's list, and SHELL, which does no harm.
CHANGES = frozenset(
    ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "SHELL", "STOPSIGNAL", "USER", "VOLUME",
     "WORKDIR")
)  # fmt: skip
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_FORBIDDEN_TRIGGERS = frozenset({"ONBUILD", "FROM", "MAINTAINER"})


def apply_changes(config: ContainerDefaults, changes: Iterable[str]) -> ContainerDefaults:
    """The defaults after instructions such as `CMD ["sh"]` or `ENV A=1 B=$A`, in their order.

    A text may hold several lines. A new ENTRYPOINT takes the old CMD away, unless a change has set one. Raises
    InvalidArgument.
    """
    cmd_set = False
    lines = (line.strip() for text in changes for line in text.splitlines())
    for number, line in enumerate(filter(None, lines), start=1):
        name = line.split(None, 1)[0].upper()
        if name not in CHANGES:
            raise InvalidArgument(f"{name} is not a valid change command", detail=repr(line[:200]))
        instruction = parse_instruction(number, line)
        config = configure(instruction, config, environment(config), cmd_set=cmd_set)
        cmd_set = cmd_set or name == "CMD"
    return config


def configure(
    instruction: Instruction,
    config: ContainerDefaults,
    variables: Mapping[str, str],
    escape: str = "\\",
    *,
    cmd_set: bool = True,
) -> ContainerDefaults:
    """The configuration after one of CHANGES or MAINTAINER. Raises InvalidArgument with the line.

    `cmd_set` says that the CMD is of this very Dockerfile, so that ENTRYPOINT leaves it.
    """
    try:
        config = _Change(instruction, config, variables, escape).apply()
    except InvalidArgument as cause:
        if str(cause).startswith("dockerfile parse error"):
            raise
        raise instruction.error(str(cause)) from cause
    if instruction.keyword == "ENTRYPOINT" and not cmd_set:
        return replace(config, cmd=None)
    return config


def command_of(instruction: Instruction, config: ContainerDefaults) -> list[str]:
    """The argv of a RUN, CMD or ENTRYPOINT: the JSON form as it is, else through the shell."""
    if instruction.words is not None:
        return list(instruction.words)
    return [*(config.shell or DEFAULT_SHELL), instruction.text]


def environment(config: ContainerDefaults) -> dict[str, str]:
    return {name: value for name, _, value in (item.partition("=") for item in config.env or [])}


class _Change:
    def __init__(
        self, instruction: Instruction, config: ContainerDefaults, variables: Mapping[str, str], escape: str
    ) -> None:
        self.instruction, self.config = instruction, config
        self.variables, self.escape = variables, escape

    def apply(self) -> ContainerDefaults:
        values = getattr(self, self.instruction.keyword.lower())()
        return replace(self.config, **values)

    def expanded(self) -> str:
        return expand(self.instruction.text, self.variables, self.escape)

    def pairs(self) -> list[tuple[str, str]]:
        return parse_pairs(self.instruction.text, self.variables, self.escape)

    def words(self) -> list[str]:
        """Of VOLUME and EXPOSE: both forms, expanded."""
        if self.instruction.words is None:
            return expand_words(self.instruction.text, self.variables, self.escape)
        return [expand(word, self.variables, self.escape) for word in self.instruction.words]

    def cmd(self) -> dict[str, object]:
        return {"cmd": command_of(self.instruction, self.config) if self.instruction.text else None}

    def entrypoint(self) -> dict[str, object]:
        return {"entrypoint": command_of(self.instruction, self.config) if self.instruction.text else None}

    def env(self) -> dict[str, object]:
        merged = environment(self.config) | dict(self.pairs())  # a variable keeps its place
        return {"env": [f"{name}={value}" for name, value in merged.items()]}

    def label(self) -> dict[str, object]:
        return {"labels": {**(self.config.labels or {}), **dict(self.pairs())}}

    def maintainer(self) -> dict[str, object]:
        return {"labels": {**(self.config.labels or {}), "maintainer": self.instruction.text}}

    def expose(self) -> dict[str, object]:
        ports = dict(self.config.exposed_ports or {})
        for word in self.words():
            ports |= {port: {} for port in parse_exposed(word)}
        return {"exposed_ports": ports}

    def user(self) -> dict[str, object]:
        user = self.expanded()
        if not user:
            raise InvalidArgument("USER requires a name")
        return {"user": user}

    def workdir(self) -> dict[str, object]:
        joined = posixpath.join("/", self.config.working_dir or "/", self.expanded())
        # POSIX gives two slashes at the beginning a meaning of their own; Docker does not
        return {"working_dir": "/" + posixpath.normpath(joined).lstrip("/")}

    def volume(self) -> dict[str, object]:
        words = self.words()
        if not words or not all(words):
            raise InvalidArgument("VOLUME specified can not be an empty string")
        return {"volumes": {**(self.config.volumes or {}), **{word: {} for word in words}}}

    def stopsignal(self) -> dict[str, object]:
        return {"stop_signal": self.expanded()}

    def shell(self) -> dict[str, object]:
        return {"shell": list(self.instruction.words or ())}

    def onbuild(self) -> dict[str, object]:
        trigger = parse_instruction(self.instruction.line, self.instruction.text)
        if trigger.keyword == "ONBUILD":
            raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
        if trigger.keyword in _FORBIDDEN_TRIGGERS:
            raise InvalidArgument(f"{trigger.keyword} isn't allowed as an ONBUILD trigger")
        return {"on_build": [*(self.config.on_build or []), self.instruction.text]}

    def healthcheck(self) -> dict[str, object]:
        return {"healthcheck": parse_healthcheck(self.instruction)}


def parse_exposed(word: str) -> list[str]:
    """`80`, `53/udp` or `7000-7002/tcp` as "port/protocol" keys. Raises InvalidArgument."""
    match = _PORT.fullmatch(word)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not match or not 0 < first <= last <= 65535:
        raise InvalidArgument(f"invalid containerPort: {word[:100]}")
    return [f"{port}/{(match[3] or 'tcp').lower()}" for port in range(first, last + 1)]


def parse_healthcheck(instruction: Instruction) -> Healthcheck:
    """Of HEALTHCHECK with its flags. Raises InvalidArgument."""
    kind, _, rest = instruction.text.partition(" ")
    if kind.upper() == "NONE":
        return Healthcheck(test=["NONE"])
    if kind.upper() != "CMD" or not rest.strip():
        raise InvalidArgument(
            f"unknown type {kind!r} in HEALTHCHECK", hint="write HEALTHCHECK CMD command, or NONE"
        )
    probe = parse_instruction(instruction.line, f"CMD {rest}")
    test = ["CMD", *probe.words] if probe.words is not None else ["CMD-SHELL", probe.text]
    flags = instruction.flags
    retries = flags.get("retries", "0")
    if not retries.isdigit():
        raise InvalidArgument(f"--retries must be a number, not {retries!r}")
    return Healthcheck(
        test=test,
        interval=parse_duration(flags.get("interval", "0s")),
        timeout=parse_duration(flags.get("timeout", "0s")),
        start_period=parse_duration(flags.get("start-period", "0s")),
        start_interval=parse_duration(flags.get("start-interval", "0s")),
        retries=int(retries),
    )


# History


def history_words(
    instruction: Instruction, after: ContainerDefaults, variables: Mapping[str, str], escape: str = "\\"
) -> str:
    """How dockerd's history tells of a step that only configured: `CMD ["a" "b"]`, `ENV A=1`, `VOLUME [/data]`.

    `after` is the configuration after it. Values are expanded and without quotes, as Go prints its own.
    """
    name = instruction.keyword
    change = _Change(instruction, after, variables, escape)
    match name:
        case "CMD":
            return f"CMD {_quoted(after.cmd)}"
        case "ENTRYPOINT":
            return f"ENTRYPOINT {_quoted(after.entrypoint)}"
        case "ENV" | "LABEL":
            return " ".join([name, *(f"{key}={value}" for key, value in change.pairs())])
        case "EXPOSE":
            return " ".join([name, *change.words()])
        case "VOLUME":
            return f"VOLUME [{' '.join(change.words())}]"
        case "SHELL":
            return f"SHELL [{' '.join(after.shell or ())}]"
        case "HEALTHCHECK" if after.healthcheck:
            return f"HEALTHCHECK {_health_words(after.healthcheck)}"
        case "WORKDIR":
            return f"WORKDIR {after.working_dir}"
        case "USER" | "STOPSIGNAL":
            return f"{name} {change.expanded()}"
        case _:
            return instruction.original


def _quoted(words: Iterable[str] | None) -> str:
    """Go's %q of a list."""
    return f"[{' '.join(json.dumps(word, ensure_ascii=False) for word in words or ())}]"


def _health_words(check: Healthcheck) -> str:
    """Go's %q of a struct: spans of time in quotes, and the number of retries as the letter with that number."""
    spans = (check.interval, check.timeout, check.start_period, check.start_interval)
    times = " ".join(f'"{go_duration(span or 0)}"' for span in spans)
    retries = check.retries or 0
    letter = chr(retries) if 32 <= retries < 127 and chr(retries) not in "'\\" else f"\\x{retries:02x}"
    return f"&{{{_quoted(check.test)} {times} '{letter}'}}"
