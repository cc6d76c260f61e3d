"""Instructions that only change the image's configuration. Pure: configuration in, configuration out."""

import posixpath
import re
from collections.abc import Mapping

import msgspec

from longshore.build.dockerfile import Instruction, parse_instruction
from longshore.build.words import expand, expand_words, parse_pairs
from longshore.errors import EngineError, InvalidArgument
from longshore.oci.image_config import ContainerDefaults, Healthcheck
from longshore.oci.units import parse_duration

DEFAULT_SHELL = ["/bin/sh", "-c"]
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?")
_FORBIDDEN_TRIGGERS = frozenset({"ONBUILD", "FROM", "MAINTAINER"})


def configure(
    instruction: Instruction, config: ContainerDefaults, variables: Mapping[str, str], escape: str = "\\"
) -> ContainerDefaults:
    """The configuration after CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER,
    VOLUME or WORKDIR. Raises InvalidArgument with the line."""
    try:
        return _Change(instruction, config, variables, escape).apply()
    except InvalidArgument as cause:
        if str(cause).startswith("dockerfile parse error"):
            raise
        raise instruction.error(str(cause)) from cause


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
        return msgspec.structs.replace(self.config, **values)

    def expanded(self) -> str:
        return expand(self.instruction.text, self.variables, self.escape)

    def pairs(self) -> list[tuple[str, str]]:
        return parse_pairs(self.instruction.text, self.variables, self.escape)

    def cmd(self) -> dict[str, object]:
        return {"cmd": command_of(self.instruction, self.config) if self.instruction.text else None}

    def entrypoint(self) -> dict[str, object]:
        # A new ENTRYPOINT makes the inherited CMD meaningless; one set in this Dockerfile stays (builder.py).
        return {"entrypoint": command_of(self.instruction, self.config) if self.instruction.text else None}

    def env(self) -> dict[str, object]:
        merged = environment(self.config) | dict(self.pairs())
        return {"env": [f"{name}={value}" for name, value in merged.items()]}

    def label(self) -> dict[str, object]:
        return {"labels": {**(self.config.labels or {}), **dict(self.pairs())}}

    def maintainer(self) -> dict[str, object]:
        return {"labels": {**(self.config.labels or {}), "maintainer": self.instruction.text}}

    def expose(self) -> dict[str, object]:
        ports = dict(self.config.exposed_ports or {})
        for word in expand_words(self.instruction.text, self.variables, self.escape):
            ports |= {port: {} for port in parse_exposed(word)}
        return {"exposed_ports": ports}

    def user(self) -> dict[str, object]:
        user = self.expanded()
        if not user:
            raise InvalidArgument("USER requires a name")
        return {"user": user}

    def workdir(self) -> dict[str, object]:
        base = self.config.working_dir or "/"
        return {"working_dir": posixpath.normpath(posixpath.join("/", base, self.expanded()))}

    def volume(self) -> dict[str, object]:
        words = self.instruction.words
        if words is None:
            words = tuple(expand_words(self.instruction.text, self.variables, self.escape))
        else:
            words = tuple(expand(word, self.variables, self.escape) for word in words)
        if not words or not all(words):
            raise InvalidArgument("VOLUME specified can not be an empty string")
        return {"volumes": {**(self.config.volumes or {}), **{word: {} for word in words}}}

    def stopsignal(self) -> dict[str, object]:
        return {"stop_signal": self.expanded()}

    def shell(self) -> dict[str, object]:
        return {"shell": list(self.instruction.words or ())}

    def onbuild(self) -> dict[str, object]:
        trigger = parse_instruction(self.instruction.line, self.instruction.text)
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
        raise InvalidArgument(f"invalid containerPort: {word}")
    return [f"{port}/{match[3] or 'tcp'}" for port in range(first, last + 1)]


def parse_healthcheck(instruction: Instruction) -> Healthcheck:
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


def parse_owner(text: str, find: "OwnerLookup") -> tuple[int, int]:
    """`user[:group]` of --chown, names looked up in the image. A user alone gives its own group."""
    user, _, group = text.partition(":")
    uid, gid = (int(user), int(user)) if user.isdigit() else find.user(user)
    if group:
        gid = int(group) if group.isdigit() else find.group(group)
    return uid, gid


class OwnerLookup:
    """Names in the image's /etc/passwd and /etc/group, given as text."""

    def __init__(self, passwd: str, group: str) -> None:
        self._passwd, self._group = passwd, group

    def user(self, name: str) -> tuple[int, int]:
        fields = self._line(self._passwd, name, "user")
        return int(fields[2]), int(fields[3])

    def group(self, name: str) -> int:
        return int(self._line(self._group, name, "group")[2])

    @staticmethod
    def _line(table: str, name: str, kind: str) -> list[str]:
        for line in table.splitlines():
            fields = line.split(":")
            if (
                fields[0] == name
                and len(fields) >= 4
                and fields[2].isdigit()
                and (kind == "group" or fields[3].isdigit())
            ):
                return fields
        raise EngineError(f"unable to find {kind} {name} in the image", hint="use a number")
