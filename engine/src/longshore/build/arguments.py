"""Build arguments: what ARG means before the first FROM and inside a stage, and the arguments that are always there.

Pure. https://docs.docker.com/reference/dockerfile/#arg and "Automatic platform ARGs in the global scope".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from longshore.errors import InvalidArgument
from longshore.oci.descriptor import Platform, host_platform, parse_platform
from longshore.oci.dockerfile_instruction import Instruction
from longshore.oci.dockerfile_words import expand, split_words

# Build arguments that work without ARG (Dockerfile reference, "Predefined ARGs"); they leave no trace in the image.
PREDEFINED = frozenset(
    name
    for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    for name in (word, word.upper())
)
# For the builder itself: nobody has to declare them.
CONTROL = frozenset(
    {
        "BUILDKIT_CACHE_MOUNT_NS",
        "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
        "BUILDKIT_DOCKERFILE_CHECK",
        "BUILDKIT_INLINE_CACHE",
        "BUILDKIT_MULTI_PLATFORM",
        "BUILDKIT_SANDBOX_HOSTNAME",
        "BUILDKIT_SYNTAX",
        "SOURCE_DATE_EPOCH",
    }
)


@dataclass(frozen=True, slots=True)
class Scope:
    """The arguments before the first FROM. `values`: as given or by default; `defaults`: as nobody gives any.

    `declared`: the names that FROM may use.
    """

    values: Mapping[str, str] = field(default_factory=dict[str, str])
    defaults: Mapping[str, str] = field(default_factory=dict[str, str])
    declared: frozenset[str] = frozenset()


def platform_arguments(target: str, stage: str = "") -> dict[str, str]:
    """TARGETPLATFORM, BUILDPLATFORM and their parts. `target`: "" is this machine. Raises InvalidArgument."""
    found: dict[str, str] = {"TARGETSTAGE": stage or "default"}
    for prefix, platform in (("BUILD", host_platform()), ("TARGET", parse_platform(target))):
        found |= {
            f"{prefix}PLATFORM": platform_text(platform),
            f"{prefix}OS": platform.os,
            f"{prefix}OSVERSION": platform.os_version,
            f"{prefix}ARCH": platform.architecture,
            f"{prefix}VARIANT": platform.variant,
        }
    return found


def platform_text(platform: Platform) -> str:
    """"linux/arm64": the variant v8 of arm64 is the only one there is and not shown, as containerd has it."""
    variant = "" if (platform.architecture, platform.variant) == ("arm64", "v8") else platform.variant
    return "/".join(filter(None, (platform.os, platform.architecture, variant)))


def global_scope(
    instructions: Iterable[Instruction],
    given: Mapping[str, str | None],
    automatic: Mapping[str, str],
    escape: str,
) -> Scope:
    """The ARGs before the first FROM. Raises InvalidArgument with the line."""
    values, defaults = dict(automatic), dict(automatic)
    declared = set(automatic)
    for instruction in instructions:
        for name, default in declarations(instruction, escape):
            declared.add(name)
            if default is not None:
                defaults[name] = expanded(instruction, default, defaults, escape)
            value = given.get(name)
            if value is not None:
                values[name] = value
            elif default is not None:
                values[name] = expanded(instruction, default, values, escape)
    return Scope(values, defaults, frozenset(declared))


def declarations(instruction: Instruction, escape: str) -> list[tuple[str, str | None]]:
    """The names of one ARG with their defaults, not expanded. Raises InvalidArgument."""
    found: list[tuple[str, str | None]] = []
    for word in split_words(instruction.text, escape):
        name, separator, default = word.partition("=")
        if not name:
            raise instruction.error("ARG names can not be blank")
        found.append((name, default if separator else None))
    return found


def stage_arguments(
    instruction: Instruction,
    given: Mapping[str, str | None],
    scope: Scope,
    variables: Mapping[str, str],
    escape: str,
) -> dict[str, str]:
    """What one ARG inside a stage gives: the client's value, its default, or the value from before the first FROM.

    A name without any value is left out. Raises InvalidArgument with the line.
    """
    found: dict[str, str] = {}
    for name, default in declarations(instruction, escape):
        value = given.get(name)
        if value is not None:
            found[name] = value
        elif default is not None:
            found[name] = expanded(instruction, default, {**variables, **found}, escape)
        elif name in scope.values:
            found[name] = scope.values[name]
    return found


def expanded(instruction: Instruction, text: str, variables: Mapping[str, str], escape: str) -> str:
    """Raises InvalidArgument with the instruction's line."""
    try:
        return expand(text, variables, escape)
    except InvalidArgument as cause:
        raise instruction.error(str(cause)) from cause


def epoch_of(given: Mapping[str, str | None], scope: Scope) -> int | None:
    """SOURCE_DATE_EPOCH in seconds, None where nobody sets it. Raises InvalidArgument.

    https://reproducible-builds.org/docs/source-date-epoch/
    """
    text = given.get("SOURCE_DATE_EPOCH") or scope.values.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise InvalidArgument(f"invalid SOURCE_DATE_EPOCH: {text!r}", hint="seconds since 1970, like 1700000000")
    return int(text)
