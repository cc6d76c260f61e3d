"""Stages of a Dockerfile: which there are, which of them the target needs, how its steps are called. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from longshore.build.arguments import Scope, expanded, global_scope, platform_arguments
from longshore.build.dockerfile import Dockerfile
from longshore.build.events import Step
from longshore.build.run_mounts import mount_sources
from longshore.errors import InvalidArgument
from longshore.oci.dockerfile_instruction import Instruction
from longshore.oci.dockerfile_words import expand

# What may change files and so has a place of its own in BuildKit's display.
LAYERED = frozenset({"ADD", "COPY", "FROM", "RUN", "WORKDIR"})


@dataclass(frozen=True, slots=True)
class Stage:
    number: int
    name: str  # lower case, or "" without AS
    base: str  # an image, the name of an earlier stage or "scratch"
    platform: str  # of FROM --platform, expanded; "" is the target's
    source: Instruction  # its FROM
    steps: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one build of one platform does: the stages that the target needs, in the order of the file."""

    stages: tuple[Stage, ...]
    every: tuple[Stage, ...]  # also those that are not needed
    scope: Scope
    escape: str
    target: Stage

    def stage(self, name: str, before: int) -> Stage | None:
        return find_stage(self.every, name, before)

    @property
    def total(self) -> int:
        return sum(1 + len(stage.steps) for stage in self.stages)

    def steps(self, *, before: int = 0, total: int = 0, platform: str = "") -> dict[int, Step]:
        """The steps of the needed stages by the line of their instruction, in the order of the file.

        Of a build for several platforms: how many steps come before, how many there are, and which platform it is.
        """
        found: dict[int, Step] = {}
        last: dict[int, str] = {}
        for stage in self.stages:
            instructions = (stage.source, *stage.steps)
            layered = [instruction for instruction in instructions if instruction.keyword in LAYERED]
            for place, instruction in enumerate(instructions, start=1):
                id = step_id(platform, self.target.number, stage.number, place, instruction.original)
                number = sum(other.line <= instruction.line for other in layered)
                inputs = [last[stage.number]] if stage.number in last else []
                for name in _names(stage, instruction):
                    other = self.stage(name, stage.number)
                    inputs += [last[other.number]] if other and other.number in last else []
                found[instruction.line] = Step(
                    id=id,
                    name=f"[{self._prefix(stage, platform)}{number}/{len(layered)}] {instruction.original}",
                    inputs=tuple(dict.fromkeys(inputs)),
                    number=before + len(found) + 1,
                    total=total or self.total,
                    instruction=instruction.original,
                    stage=stage.name or str(stage.number),
                    line=instruction.line,
                    files=instruction.keyword in LAYERED,
                )
                last[stage.number] = id
        return found

    def _prefix(self, stage: Stage, platform: str) -> str:
        shown = stage.name or (f"stage-{stage.number}" if len(self.every) > 1 else "")
        return "".join(f"{word} " for word in (platform, shown) if word)


def step_id(*parts: object) -> str:
    return f"sha256:{hashlib.sha256(repr(parts).encode()).hexdigest()}"


def plan_build(
    dockerfile: Dockerfile, given: Mapping[str, str | None], target: str = "", platform: str = ""
) -> Plan:
    """Split at FROM and keep what the target (default: the last stage) needs. Raises InvalidArgument."""
    groups: list[list[Instruction]] = []
    first: list[Instruction] = []
    for instruction in dockerfile.instructions:
        if instruction.keyword == "FROM":
            groups.append([instruction])
        elif groups:
            groups[-1].append(instruction)
        elif instruction.keyword == "ARG":
            first.append(instruction)
        else:
            raise instruction.error("no build stage in current context", hint="begin the Dockerfile with FROM")
    if not groups:
        raise InvalidArgument(
            "no build stage in current context",
            detail="dockerfile contains no stages to build",
            hint="the Dockerfile needs a FROM",
        )
    names = [_stage_name(group[0]) for group in groups]
    automatic = platform_arguments(platform, target.lower() or names[-1])
    scope = global_scope(first, given, automatic, dockerfile.escape)
    every = tuple(
        _stage(number, group, names[number], scope, dockerfile.escape) for number, group in enumerate(groups)
    )
    wanted = every[-1]
    if target:
        found = find_stage(every, target, len(every))
        if found is None:
            raise InvalidArgument(
                f"failed to reach build target {target} in Dockerfile",
                detail=f'target stage "{target}" could not be found',
            )
        wanted = found
    return Plan(_needed(every, wanted), every, scope, dockerfile.escape, wanted)


def _stage_name(source: Instruction) -> str:
    words = source.text.split()
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
        raise source.error("FROM requires either one or three arguments")
    name = words[2].lower() if len(words) == 3 else ""
    good = not name or (name[0].isalpha() and all(c.isalnum() or c in "-_." for c in name) and name.isascii())
    if not good:
        raise source.error(
            f"invalid name for build stage: {words[2]!r}", hint="it starts with a letter; then letters, digits and -_."
        )
    return name


def _stage(number: int, group: list[Instruction], name: str, scope: Scope, escape: str) -> Stage:
    source, *steps = group
    word = source.text.split()[0]
    base = expanded(source, word, scope.values, escape)
    if not base:
        raise source.error(f"base name ({word}) should not be blank")
    platform = expanded(source, source.flags.get("platform", ""), scope.values, escape)
    if "platform" in source.flags and not platform:
        raise source.error(f"empty platform value from expression {source.flags['platform']}")
    return Stage(number, name, base, platform, source, tuple(steps))


def find_stage(stages: tuple[Stage, ...], name: str, before: int) -> Stage | None:
    """A stage by name or number among those earlier than `before`; the latest of a repeated name."""
    for stage in reversed(stages):
        if stage.number < before and (
            (stage.name and stage.name == name.lower()) or name == str(stage.number)
        ):
            return stage
    return None


def _names(stage: Stage, instruction: Instruction) -> list[str]:
    """The stages or images that an instruction reads from."""
    if instruction.keyword == "FROM":
        return [stage.base]
    if instruction.keyword == "COPY" and "from" in instruction.flags:
        return [instruction.flags["from"]]
    if instruction.keyword == "RUN":
        return mount_sources(instruction.repeated.get("mount", ()))
    return []


def _needed(stages: tuple[Stage, ...], target: Stage) -> tuple[Stage, ...]:
    wanted: dict[int, Stage] = {}
    pending = [target]
    while pending:
        stage = pending.pop()
        if stage.number in wanted:
            continue
        wanted[stage.number] = stage
        for instruction in (stage.source, *stage.steps):
            for name in _names(stage, instruction):
                found = find_stage(stages, name, stage.number)
                if found is not None:
                    pending.append(found)
    return tuple(wanted[number] for number in sorted(wanted))


def inputs_of(plan: Plan, stage: Stage) -> list[Stage]:
    """The stages that a stage reads from, which can be built beside one another."""
    found: dict[int, Stage] = {}
    for instruction in (stage.source, *stage.steps):
        for name in _names(stage, instruction):
            other = plan.stage(name, stage.number)
            if other is not None:
                found[other.number] = other
    return list(found.values())


def context_paths(plan: Plan) -> tuple[str, ...]:
    """What the build will look at in its main context, for a door that transfers only that; ("/",): everything.

    Sources of COPY and ADD that need the values of arguments count as everything.
    """
    paths: list[str] = []
    for stage in plan.stages:
        for instruction in stage.steps:
            if instruction.keyword in ("ADD", "COPY") and "from" not in instruction.flags:
                words = instruction.words or tuple(instruction.text.split())
                paths += [word for word in words[:-1] if not word.startswith("<<") and "://" not in word]
            elif instruction.keyword == "ONBUILD":
                paths.append("/")
            elif instruction.keyword == "RUN":
                paths += ["/"] if instruction.repeated.get("mount") else []
        if find_stage(plan.every, stage.base, stage.number) is None and stage.base != "scratch":
            paths.append("")  # the base may have triggers of ONBUILD
    if any("$" in path or '"' in path or "'" in path or path == "/" for path in paths):
        return ()
    return tuple(dict.fromkeys(path for path in paths if path))


def shown_platform(stage: Stage, scope: Scope) -> str:
    """The platform a stage is for: its own or the target's."""
    return stage.platform or expand("$TARGETPLATFORM", scope.values)
