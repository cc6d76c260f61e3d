"""The device policy of cgroup v2: a small program that the kernel asks at every open and mknod of a device."""

from __future__ import annotations

import errno
import os
import struct

from longshore.errors import StartFailed
from longshore.kernel import bpf
from longshore.oci.runtime_spec import DeviceRule
from longshore.runtime.device_rules import Policy
from longshore.runtime.steps import words

_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*

# Opcodes, linux/bpf.h: class | size or operation | mode or source
_LOAD_WORD = 0x61  # LDX | W | MEM
_AND_32 = 0x54  # ALU | AND | K
_SHIFT_RIGHT_32 = 0x74  # ALU | RSH | K
_MOVE_32 = 0xB4  # ALU | MOV | K
_MOVE_REGISTER_32 = 0xBC  # ALU | MOV | X
_JUMP_NOT_EQUAL = 0x56  # JMP32 | JNE | K
_JUMP_NOT_EQUAL_REGISTER = 0x5E  # JMP32 | JNE | X
_EXIT = 0x95

# Registers: r1 is the context (access_type, major, minor); we keep type, access, major, minor in r2..r5.
_RESULT, _CONTEXT, _TYPE, _WANTED, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5


def _instruction(opcode: int, target: int, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhI", opcode, source << 4 | target, offset, value & 0xFFFFFFFF)


def assemble(policy: Policy) -> bytes:
    """The program: 1 allows, 0 refuses. Each exception is a block of checks and a verdict. Pure."""
    code = [
        _instruction(_LOAD_WORD, _TYPE, _CONTEXT, 0),
        _instruction(_AND_32, _TYPE, value=0xFFFF),
        _instruction(_LOAD_WORD, _WANTED, _CONTEXT, 0),
        _instruction(_SHIFT_RIGHT_32, _WANTED, value=16),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    ]
    for rule in policy.exceptions:
        code += _rule(rule)
    code += [_instruction(_MOVE_32, _RESULT, value=int(policy.allow)), _instruction(_EXIT, 0)]
    return b"".join(code)


def _rule(rule: DeviceRule) -> list[bytes]:
    """Checks that jump behind the rule when they fail, then the verdict."""
    checks = [(_JUMP_NOT_EQUAL, _TYPE, _TYPES[rule.type])]  # opcode, register, value
    if rule.major is not None:
        checks.append((_JUMP_NOT_EQUAL, _MAJOR, rule.major))
    if rule.minor is not None:
        checks.append((_JUMP_NOT_EQUAL, _MINOR, rule.minor))
    access = sum(_ACCESS[letter] for letter in set(rule.access) & set(_ACCESS))
    body: list[bytes] = []
    verdict = [_instruction(_MOVE_32, _RESULT, value=int(rule.allow)), _instruction(_EXIT, 0)]
    partial: list[bytes] = []
    if access != 7:
        # allow: all wanted bits must be in the rule; deny: the rule speaks as soon as one wanted bit is in it.
        partial = [
            _instruction(_MOVE_REGISTER_32, _CONTEXT, _WANTED),
            _instruction(_AND_32, _CONTEXT, value=access),
            _instruction(_JUMP_NOT_EQUAL_REGISTER, _CONTEXT, _WANTED, len(verdict))
            if rule.allow
            else _instruction(0x16, _CONTEXT, 0, len(verdict), 0),  # JMP32 | JEQ | K
        ]
    tail = partial + verdict
    for index, (opcode, register, value) in enumerate(checks):
        body.append(_instruction(opcode, register, 0, len(checks) - index - 1 + len(tail), value))
    return body + tail


def attach_device_policy(path: str, policy: Policy, *, replace: bool = False) -> list[str]:
    """Attach the policy to the v2 group; returns warnings. "Allow everything" attaches nothing.

    `replace`: the group may have programs of an earlier run, which go. Raises StartFailed. Where programs are
    forbidden to us (EPERM inside a nested container) the parent's policy holds and a warning says so.
    """
    group = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    old: list[int] = []
    try:
        old = bpf.programs_of_cgroup(group) if replace else []
        if not policy.everything:
            program = bpf.load_device_program(assemble(policy))
            try:
                bpf.attach_to_cgroup(group, program)
            finally:
                os.close(program)
        for each in old:
            bpf.detach_from_cgroup(group, each)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            return [f"the device policy is not set: {words(error)}"]
        raise StartFailed(
            f"error attaching the device policy: {words(error)}", errno=error.errno or 0
        ) from error
    finally:
        os.close(group)
        for each in old:
            os.close(each)
    return []
