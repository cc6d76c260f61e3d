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
    syscalls: list[_Rule] | None = None


def parse_profile(text: str, capabilities: Sequence[str], architecture: str) -> Seccomp:
    """The profile with its conditions decided. Raises InvalidArgument."""
    try:
        profile = msgspec.json.decode(text, type=_Profile)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise InvalidArgument("Decoding seccomp profile failed", detail=str(cause)) from cause
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
