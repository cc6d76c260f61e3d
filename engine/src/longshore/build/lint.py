"""Build checks: findings about a Dockerfile that still builds, with BuildKit's rule names. Pure.

https://docs.docker.com/reference/build-checks/. Skipped and made errors by `# check=skip=Rule,…;error=true`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from longshore.build.arguments import PREDEFINED, Scope
from longshore.build.dockerfile import Dockerfile
from longshore.build.events import Warned
from longshore.errors import InvalidArgument
from longshore.oci.dockerfile_instruction import Instruction
from longshore.oci.dockerfile_words import expand, is_legacy_pair, pairs_of, split_words
from longshore.oci.ignore import Ignore

_URL = "https://docs.docker.com/go/dockerfile/rule/"

DESCRIPTIONS = {
    "ConsistentInstructionCasing": "all instructions should be written in the same case",
    "CopyIgnoredFile": "a file is copied that .dockerignore leaves out",
    "DuplicateStageName": "names of stages should be unique",
    "ExposeInvalidFormat": "EXPOSE takes no address and no port of the host",
    "ExposeProtoCasing": "protocols in EXPOSE should be lower case",
    "FromAsCasing": "AS should be written in the case of FROM",
    "FromPlatformFlagConstDisallowed": "FROM --platform should not be a constant",
    "InvalidBaseImagePlatform": "the base image is for another platform",
    "InvalidDefaultArgInFrom": "without build arguments FROM has no valid image",
    "InvalidDefinitionDescription": "a comment above FROM or ARG should begin with the name",
    "JSONArgsRecommended": "the JSON form lets signals reach the program",
    "LegacyKeyValueFormat": "NAME=value should be written instead of NAME value",
    "MaintainerDeprecated": "a label should be used instead of MAINTAINER",
    "MultipleInstructionsDisallowed": "only the last of several counts",
    "NoEmptyContinuation": "empty lines in a continued instruction will become errors",
    "RedundantTargetPlatform": "the target platform is the default already",
    "ReservedStageName": "a stage should not have a reserved name",
    "SecretsUsedInArgOrEnv": "secrets should not be given by ARG or ENV",
    "StageNameCasing": "names of stages should be lower case",
    "UndefinedArgInFrom": "FROM uses an argument that is not declared",
    "UndefinedVar": "a variable is used that is not defined",
    "WorkdirRelativePath": "a relative directory depends on the base image",
}
EXPERIMENTAL = frozenset({"CopyIgnoredFile", "InvalidDefinitionDescription"})
_RESERVED_STAGES = frozenset({"context", "scratch"})
_PLATFORM_VARIABLES = frozenset({"$TARGETPLATFORM", "${TARGETPLATFORM}"})
_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public)(?:_|$)|(?:_|^)(?:file|path|url)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Checks:
    """What `# check=` (or the build argument BUILDKIT_DOCKERFILE_CHECK) says."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def wants(self, rule: str) -> bool:
        if rule in EXPERIMENTAL:
            return bool(self.experimental & {rule, "all"})
        return not self.skip & {rule, "all"}


def parse_checks(text: str) -> Checks:
    """`skip=A,B;experimental=C;error=true`. Raises InvalidArgument."""
    values: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, separator, value = part.partition("=")
        if not separator or name.strip() not in ("skip", "experimental", "error"):
            raise InvalidArgument(f"invalid check option {part!r}", hint="skip=RULE,…;experimental=RULE;error=true")
        values[name.strip()] = value.strip()
    error = values.get("error", "false").lower()
    if error not in ("true", "false", "1", "0", "t", "f"):
        raise InvalidArgument(f"failed to parse check option error={error!r}")

    def rules(name: str) -> frozenset[str]:
        return frozenset(rule.strip() for rule in values.get(name, "").split(",") if rule.strip())

    return Checks(rules("skip"), rules("experimental"), error in ("true", "1", "t"))


def checks_of(dockerfile: Dockerfile, given: Mapping[str, str | None]) -> Checks:
    """The build argument goes before the directive. Raises InvalidArgument with the line."""
    text = given.get("BUILDKIT_DOCKERFILE_CHECK")
    line, written = dockerfile.directives.get("check", (0, ""))
    try:
        return parse_checks(text if text is not None else written)
    except InvalidArgument as error:
        raise InvalidArgument(f"dockerfile parse error line {line or 1}: {error}") from error


def lint(
    dockerfile: Dockerfile, scope: Scope, checks: Checks, ignore: Ignore | None = None
) -> list[Warned]:
    """All findings in the order of the lines. `scope`: the arguments before the first FROM."""
    found = [
        _warned(rule, message, start, end)
        for rule, message, start, end in _Linter(dockerfile, scope, ignore).run()
        if checks.wants(rule)
    ]
    return sorted(found, key=lambda warned: warned.start)


def _warned(rule: str, message: str, start: int, end: int) -> Warned:
    page = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=JSON)", "-", rule).lower()
    return Warned(rule, message, DESCRIPTIONS[rule], f"{_URL}{page}/", start, end)


Finding = tuple[str, str, int, int]


class _Linter:
    def __init__(self, dockerfile: Dockerfile, scope: Scope, ignore: Ignore | None) -> None:
        self.file, self.scope, self.ignore = dockerfile, scope, ignore
        self.stages: list[list[Instruction]] = []
        for instruction in dockerfile.instructions:
            if instruction.keyword == "FROM":
                self.stages.append([])
            if self.stages:
                self.stages[-1].append(instruction)

    def run(self) -> Iterator[Finding]:
        for line in self.file.empty_continuations:
            yield "NoEmptyContinuation", "Empty continuation line", line, line
        yield from self.casing()
        yield from self.stage_names()
        for stage in self.stages:
            yield from self.source(stage[0])
            yield from self.repetitions(stage)
            yield from self.directory(stage)
            yield from self.variables(stage)
        for instruction in self.file.instructions:
            yield from self.alone(instruction)

    def casing(self) -> Iterator[Finding]:
        written = [i for i in self.file.instructions if i.written]
        lower = sum(i.written == i.written.lower() for i in written)
        upper = sum(i.written == i.written.upper() for i in written)
        if lower == len(written) or upper == len(written):
            return
        wanted = "lowercase" if lower > upper else "uppercase"
        for instruction in written:
            right = instruction.keyword.lower() if lower > upper else instruction.keyword
            if instruction.written != right:
                message = f"Command '{instruction.written}' should match the case of the command majority ({wanted})"
                yield _at(instruction, "ConsistentInstructionCasing", message)

    def stage_names(self) -> Iterator[Finding]:
        seen: set[str] = set()
        for stage in self.stages:
            words = stage[0].text.split()
            if len(words) != 3:
                continue
            name = words[2].lower()
            if words[2] != name:
                yield _at(stage[0], "StageNameCasing", f"Stage name '{words[2]}' should be lowercase")
            consistent = stage[0].written in (stage[0].keyword, stage[0].keyword.lower())
            right = words[1].lower() if stage[0].written.islower() else words[1].upper()
            if consistent and words[1] != right:
                message = f"'{words[1]}' and '{stage[0].written}' keywords' casing do not match"
                yield _at(stage[0], "FromAsCasing", message)
            if name in _RESERVED_STAGES:
                message = f'Stage name should not use the same name as reserved stage "{name}"'
                yield _at(stage[0], "ReservedStageName", message)
            if name in seen:
                message = f'Duplicate stage name "{name}", stage names should be unique'
                yield _at(stage[0], "DuplicateStageName", message)
            seen.add(name)

    def source(self, source: Instruction) -> Iterator[Finding]:
        word = source.text.split()[0]
        platform = source.flags.get("platform", "")
        if platform in _PLATFORM_VARIABLES:
            message = f"Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
            yield _at(source, "RedundantTargetPlatform", message)
        elif platform and "$" not in platform:
            message = f'FROM --platform flag should not use constant value "{platform}"'
            yield _at(source, "FromPlatformFlagConstDisallowed", message)
        unknown: set[str] = set()
        for text in (word, platform):
            _try_expand(text, self.scope.values, self.file.escape, unknown)
        for name in sorted(unknown):
            if name in self.scope.declared:
                continue
            close = get_close_matches(name, self.scope.declared, n=1)
            suffix = f" (did you mean {close[0]}?)" if close else ""
            yield _at(source, "UndefinedArgInFrom", f"FROM argument '{name}' is not declared{suffix}")
        if not unknown and not _valid_base(_try_expand(word, self.scope.defaults, self.file.escape, set())):
            message = f"Default value for ARG {word} results in empty or invalid base image name"
            yield _at(source, "InvalidDefaultArgInFrom", message)

    def repetitions(self, stage: list[Instruction]) -> Iterator[Finding]:
        for keyword in ("CMD", "ENTRYPOINT", "HEALTHCHECK"):
            same = [instruction for instruction in stage if instruction.keyword == keyword]
            for instruction in same[:-1]:
                message = (
                    f"Multiple {keyword} instructions should not be used in the same stage because only the last one "
                    "will be used"
                )
                yield _at(instruction, "MultipleInstructionsDisallowed", message)

    def directory(self, stage: list[Instruction]) -> Iterator[Finding]:
        for instruction in stage:
            if instruction.keyword != "WORKDIR":
                continue
            if not instruction.text.startswith(("/", "$", '"/', "'/")):
                message = (
                    f'Relative workdir "{instruction.text}" can have unexpected results if the base image changes'
                )
                yield _at(instruction, "WorkdirRelativePath", message)
            return  # what follows stands on this one

    def variables(self, stage: list[Instruction]) -> Iterator[Finding]:
        """Variables that neither ARG nor ENV of this stage or a stage below define; unknown where an image may."""
        known = self._inherited(stage)
        for instruction in stage[1:]:
            if instruction.keyword in _EXPANDED:
                unknown: set[str] = set()
                for text in _texts(instruction, self.file.escape):
                    _try_expand(text, dict.fromkeys(known, "x"), self.file.escape, unknown)
                for name in sorted(unknown - PREDEFINED):
                    if not (name[0].isalpha() or name[0] == "_"):
                        continue
                    close = get_close_matches(name, known, n=1, cutoff=0.75)
                    suffix = f" (did you mean ${close[0]}?)" if close else ""
                    yield _at(instruction, "UndefinedVar", f"Usage of undefined variable '${name}'{suffix}")
            known |= _defines(instruction, self.file.escape)

    def _inherited(self, stage: list[Instruction]) -> set[str]:
        known = {"PATH"}
        base = stage[0].text.split()[0].lower()
        for other in self.stages[: self.stages.index(stage)]:
            words = other[0].text.split()
            if len(words) == 3 and words[2].lower() == base:
                known |= self._inherited(other)
                for instruction in other:
                    if instruction.keyword == "ENV":
                        known |= _defines(instruction, self.file.escape)
        return known

    def alone(self, instruction: Instruction) -> Iterator[Finding]:
        keyword, text = instruction.keyword, instruction.text
        if keyword == "MAINTAINER":
            message = "Maintainer instruction is deprecated in favor of using label"
            yield _at(instruction, "MaintainerDeprecated", message)
        if keyword in ("CMD", "ENTRYPOINT") and instruction.words is None and text:
            message = (
                f"JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
            )
            yield _at(instruction, "JSONArgsRecommended", message)
        if keyword in ("ENV", "LABEL") and is_legacy_pair(text, self.file.escape):
            message = f'"{keyword} key=value" should be used instead of legacy "{keyword} key value" format'
            yield _at(instruction, "LegacyKeyValueFormat", message)
        if keyword in ("ARG", "ENV"):
            for name in sorted(_defines(instruction, self.file.escape)):
                if _SECRET.search(name) and not _NO_SECRET.search(name):
                    message = f'Do not use ARG or ENV instructions for sensitive data ({keyword} "{name}")'
                    yield _at(instruction, "SecretsUsedInArgOrEnv", message)
        if keyword == "EXPOSE":
            yield from _ports(instruction)
        if keyword in ("ARG", "FROM") and instruction.comments:
            yield from self.description(instruction)
        if keyword in ("ADD", "COPY") and "from" not in instruction.flags:
            yield from self.ignored(instruction)

    def description(self, instruction: Instruction) -> Iterator[Finding]:
        words = instruction.text.split()
        names = sorted(_defines(instruction, self.file.escape)) if instruction.keyword == "ARG" else words[2:3]
        if names and instruction.comments[-1].split()[0] not in names:
            message = f"Comment for {instruction.keyword} should follow the format: `# {names[0]} <description>`"
            yield _at(instruction, "InvalidDefinitionDescription", message)

    def ignored(self, instruction: Instruction) -> Iterator[Finding]:
        if self.ignore is None:
            return
        words = instruction.words or tuple(split_words(instruction.text, self.file.escape))
        for word in words[:-1]:
            path = word.strip("/")
            plain = "$" not in path and "<<" not in path and "://" not in path and not set(path) & set("*?[")
            if plain and path not in ("", ".") and self.ignore.excludes(path):
                message = f'Attempting to {instruction.keyword} file "{word}" that is excluded by .dockerignore'
                yield _at(instruction, "CopyIgnoredFile", message)


_EXPANDED = frozenset(
    {"ADD", "COPY", "ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
)


def _at(instruction: Instruction, rule: str, message: str) -> Finding:
    return rule, message, instruction.line, instruction.end or instruction.line


def _texts(instruction: Instruction, escape: str) -> Iterable[str]:
    if instruction.keyword in ("ENV", "LABEL"):
        try:
            return [value for _, value in pairs_of(instruction.text, escape)]
        except InvalidArgument:
            return []  # told when the instruction is carried out
    return instruction.words or [instruction.text]


def _try_expand(text: str, values: Mapping[str, str], escape: str, unknown: set[str]) -> str:
    try:
        return expand(text, values, escape, unknown=unknown)
    except InvalidArgument:
        return text  # told when the instruction is carried out


def _defines(instruction: Instruction, escape: str) -> set[str]:
    if instruction.keyword == "ARG":
        return {word.partition("=")[0] for word in split_words(instruction.text, escape)}
    if instruction.keyword == "ENV":
        try:
            return {name for name, _ in pairs_of(instruction.text, escape)}
        except InvalidArgument:
            return set()
    return set()


def _valid_base(name: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9][\w./:@-]*", name)) and not name.endswith((":", "@", "/"))


def _ports(instruction: Instruction) -> Iterator[Finding]:
    for word in instruction.text.split():
        port, _, protocol = word.partition("/")
        if protocol and protocol != protocol.lower() and "$" not in word:
            message = f"Defined protocol '{word}' in EXPOSE instruction should be lowercase"
            yield _at(instruction, "ExposeProtoCasing", message)
        if ":" in port and "$" not in word:
            message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
            yield _at(instruction, "ExposeInvalidFormat", message)
