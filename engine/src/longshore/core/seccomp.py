"""A seccomp profile in Docker's JSON form (`--security-opt seccomp=…`) as the runtime specification's. Pure.

Docker's form adds conditions to each rule: capabilities, architectures and a minimal kernel
(https://docs.docker.com/engine/security/seccomp/).
"""

import os
import re
from collections.abc import Sequence

import msgspec

from longshore.errors import InvalidArgument
from longshore.oci.runtime_spec import Seccomp, SyscallArgument, SyscallRule

_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}


_ACTIONS = frozenset(
    f"SCMP_ACT_{name}"
    for name in ("KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG", "NOTIFY")
)
_OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
_FLAGS = frozenset(
    f"SECCOMP_FILTER_FLAG_{name}" for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")
)
_ARCH_NAMES = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        *("NATIVE", "X86", "X86_64", "X32", "ARM", "AARCH64", "LOONGARCH64", "M68K"),
        *("MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PARISC", "PARISC64"),
        *("PPC", "PPC64", "PPC64LE", "RISCV64", "S390", "S390X", "SH", "SHEB"),
    )
)
_LARGEST_ERRNO = 4095


class _Condition(msgspec.Struct, rename="camel"):
    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str | None = None


class _Argument(msgspec.Struct, rename="camel"):
    index: int
    value: int
    op: str
    value_two: int = 0


class _Rule(msgspec.Struct, rename="camel"):
    action: str
    names: list[str] | None = None
    name: str = ""
    errno_ret: int | None = None
    args: list[_Argument] | None = None
    includes: _Condition | None = None
    excludes: _Condition | None = None


class _ArchMap(msgspec.Struct, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class _Profile(msgspec.Struct, rename="camel"):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[_ArchMap] | None = None
    flags: list[str] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[_Rule] | None = None


def parse_profile(text: str, capabilities: Sequence[str], architecture: str) -> Seccomp:
    """The profile with its conditions decided. Raises InvalidArgument."""
    try:
        profile = msgspec.json.decode(text, type=_Profile)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise InvalidArgument("Decoding seccomp profile failed", detail=str(cause)) from cause
    _check(profile)
    arch = _ARCHITECTURES.get(architecture, architecture)
    names = list(profile.architectures or ())
    for entry in profile.arch_map or ():
        if entry.architecture.removeprefix("SCMP_ARCH_").lower() in (architecture, arch):
            names = [entry.architecture, *(entry.sub_architectures or ())]
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=tuple(names),
        flags=tuple(profile.flags or ()),
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=tuple(
            SyscallRule(
                names=tuple(rule.names or ([rule.name] if rule.name else [])),
                action=rule.action,
                errno_ret=rule.errno_ret,
                args=tuple(SyscallArgument(a.index, a.value, a.op, a.value_two) for a in rule.args or ()),
            )
            for rule in profile.syscalls or ()
            if _applies(rule, capabilities, arch)
        ),
    )


def _check(profile: _Profile) -> None:
    """What would only be found when the filter is compiled, at the start. Raises InvalidArgument."""

    def wrong(reason: str) -> InvalidArgument:
        return InvalidArgument("invalid seccomp profile", detail=reason)

    if profile.default_action not in _ACTIONS - {"SCMP_ACT_NOTIFY"}:
        raise wrong(f"defaultAction {profile.default_action!r}")
    if profile.architectures and profile.arch_map:
        raise wrong("both 'architectures' and 'archMap' are specified, use either of them")
    names = [*(profile.architectures or ()), *(entry.architecture for entry in profile.arch_map or ())]
    names += [name for entry in profile.arch_map or () for name in entry.sub_architectures or ()]
    if unknown := [name for name in names if name not in _ARCH_NAMES]:
        raise wrong(f"architecture {unknown[0]!r}")
    if unknown := [flag for flag in profile.flags or () if flag not in _FLAGS]:
        raise wrong(f"flag {unknown[0]!r}")
    errnos = [profile.default_errno_ret, *(rule.errno_ret for rule in profile.syscalls or ())]
    if any(number is not None and not 0 <= number <= _LARGEST_ERRNO for number in errnos):
        raise wrong("an errnoRet is not between 0 and 4095")
    for number, rule in enumerate(profile.syscalls or ()):
        if rule.action not in _ACTIONS:
            raise wrong(f"action {rule.action!r} of syscalls[{number}]")
        if rule.action == "SCMP_ACT_NOTIFY" and not profile.listener_path.startswith("/"):
            raise wrong(f"SCMP_ACT_NOTIFY of syscalls[{number}] needs a listenerPath")
        if rule.name and rule.names:
            raise wrong(f"both 'name' and 'names' are specified in syscalls[{number}], use either of them")
        for argument in rule.args or ():
            if argument.op not in _OPERATORS or not 0 <= argument.index <= 5:
                raise wrong(f"op {argument.op!r} of argument {argument.index} in syscalls[{number}]")
            if min(argument.value, argument.value_two) < 0:
                raise wrong(f"a negative value in syscalls[{number}]")


def _applies(rule: _Rule, capabilities: Sequence[str], arch: str) -> bool:
    wants, refuses = rule.includes or _Condition(), rule.excludes or _Condition()
    if wants.caps and not set(wants.caps) <= set(capabilities):
        return False
    if wants.arches and arch not in wants.arches:
        return False
    if wants.min_kernel and _kernel() < _version(wants.min_kernel):
        return False
    if refuses.caps and set(refuses.caps) & set(capabilities):
        return False
    if refuses.arches and arch in refuses.arches:
        return False
    return not (refuses.min_kernel and _kernel() >= _version(refuses.min_kernel))


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    if not match:
        raise InvalidArgument(f"invalid kernel version {text!r} in seccomp profile")
    return int(match[1]), int(match[2])


def _kernel() -> tuple[int, int]:
    return _version(os.uname().release)
