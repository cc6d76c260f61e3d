"""Stages of a Dockerfile: which there are, which of them the target needs. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from longshore.build.dockerfile import Dockerfile
from longshore.errors import InvalidArgument
from longshore.oci.dockerfile_instruction import Instruction
from longshore.oci.dockerfile_words import expand, expand_words


@dataclass(frozen=True, slots=True)
class Stage:
    number: int
    name: str  # lower case, or "" without AS
    base: str  # an image, the name of an earlier stage or "scratch"
    platform: str
    source: Instruction  # its FROM
    steps: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages to build in order, and the ARGs before the first FROM with their values."""

    stages: tuple[Stage, ...]
    arguments: Mapping[str, str]

    @property
    def steps(self) -> int:
        return sum(1 + len(stage.steps) for stage in self.stages)


def declared_arguments(
    instruction: Instruction, given: Mapping[str, str | None], variables: Mapping[str, str], escape: str
) -> dict[str, str]:
    """The names of one ARG with their values; a name without any value is left out."""
    found: dict[str, str] = {}
    for word in expand_words(instruction.text, {**variables}, escape):
        name, separator, default = word.partition("=")
        value = given.get(name)
        if value is not None:
            found[name] = value
        elif separator:
            found[name] = default
    return found


def plan_stages(dockerfile: Dockerfile, given: Mapping[str, str | None], target: str = "") -> Plan:
    """Split at FROM and keep what the target (default: the last stage) needs. Raises InvalidArgument."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    steps: list[Instruction] = []
    source: Instruction | None = None
    for instruction in dockerfile.instructions:
        if instruction.keyword == "FROM":
            if source is not None:
                stages.append(_stage(len(stages), source, steps, arguments, dockerfile.escape))
            source, steps = instruction, []
        elif source is not None:
            steps.append(instruction)
        elif instruction.keyword == "ARG":
            arguments |= declared_arguments(instruction, given, arguments, dockerfile.escape)
        else:
            raise InvalidArgument("no build stage in current context", hint="begin the Dockerfile with FROM")
    if source is None:
        raise InvalidArgument("no build stage in current context", hint="the Dockerfile needs a FROM")
    stages.append(_stage(len(stages), source, steps, arguments, dockerfile.escape))
    return Plan(_needed(stages, target), arguments)


def _stage(
    number: int, source: Instruction, steps: list[Instruction], arguments: Mapping[str, str], escape: str
) -> Stage:
    words = source.text.split()
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
        raise source.error("FROM requires either one or three arguments")
    base = expand(words[0], arguments, escape)
    if not base:
        raise source.error(f"base name ({words[0]}) should not be blank")
    name = words[2].lower() if len(words) == 3 else ""
    platform = expand(source.flags.get("platform", ""), arguments, escape)
    return Stage(number, name, base, platform, source, tuple(steps))


def find_stage(stages: list[Stage] | tuple[Stage, ...], name: str, before: int) -> Stage | None:
    """A stage by name or number among those earlier than `before`; the latest of a repeated name."""
    for stage in reversed(stages):
        if stage.number < before and (stage.name == name.lower() or name == str(stage.number)):
            return stage
    return None


def _needed(stages: list[Stage], target: str) -> tuple[Stage, ...]:
    last = stages[-1]
    if target:
        found = find_stage(stages, target, len(stages))
        if found is None:
            raise InvalidArgument(f"failed to reach build target {target} in Dockerfile")
        last = found
    wanted: dict[int, Stage] = {}
    pending = [last]
    while pending:
        stage = pending.pop()
        if stage.number in wanted:
            continue
        wanted[stage.number] = stage
        names = [stage.base, *(step.flags["from"] for step in stage.steps if "from" in step.flags)]
        pending.extend(found for name in names if (found := find_stage(stages, name, stage.number)))
    return tuple(wanted[number] for number in sorted(wanted))
