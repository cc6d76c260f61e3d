"""The default profile's decisions, by running its program on made-up calls; and profiles that make no sense."""

import errno
import struct
from pathlib import Path

import pytest

from longshore.errors import InvalidArgument
from longshore.oci.runtime_spec import Seccomp, SyscallArgument, SyscallRule
from longshore.runtime import seccomp_profile
from longshore.runtime.seccomp_profile import check_listener, compile_profile, default_profile, program_of
from longshore.runtime.warm import DEFAULT_CAPABILITIES

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def decide(program: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = X86_64) -> int | str:
    """0 for allow, an errno, or the action's hex. A classic BPF machine, linux/filter.h."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator = at = 0
    while True:
        opcode, when_true, when_false, value = code[at]
        at += 1
        match opcode:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, value)[0]
            case 0x54:
                accumulator &= value
            case 0x05:
                at += value
            case 0x15:
                at += when_true if accumulator == value else when_false
            case 0x25:
                at += when_true if accumulator > value else when_false
            case 0x35:
                at += when_true if accumulator >= value else when_false
            case 0x06:
                action, extra = value & 0xFFFF0000, value & 0xFFFF
                return 0 if action == ALLOW else extra if action == ERRNO else hex(value)
            case _:
                raise AssertionError(hex(opcode))


@pytest.fixture(scope="module")
def default() -> bytes:
    return compile_profile(default_profile(DEFAULT_CAPABILITIES))


pytestmark = pytest.mark.skipif(seccomp_profile.MACHINE != "x86_64", reason="numbers of x86_64")

NEWUSER, NEWNS = 0x10000000, 0x20000
DEFAULT_DECISIONS = [
    ("read", 0, (), 0),
    ("execve", 59, (), 0),
    ("socket(AF_UNIX)", 41, (1,), 0),
    ("socket(AF_INET6)", 41, (10,), 0),
    ("socket(AF_NETLINK)", 41, (16,), 0),
    ("socket(AF_ALG)", 41, (38,), errno.EAFNOSUPPORT),
    ("socket(AF_VSOCK)", 41, (40,), errno.EAFNOSUPPORT),
    ("socket(AF_ALG) with a high half", 41, (1 << 32 | 38,), errno.EAFNOSUPPORT),
    ("clone for fork", 56, (17,), 0),
    ("clone into a user namespace", 56, (NEWUSER,), errno.EPERM),
    ("clone into a mount namespace", 56, (NEWNS | 17,), errno.EPERM),
    ("clone3", 435, (), errno.ENOSYS),
    ("unshare", 272, (NEWUSER,), errno.EPERM),
    ("setns", 308, (), errno.EPERM),
    ("mount", 165, (), errno.EPERM),
    ("fsopen", 430, (), errno.EPERM),
    ("open_by_handle_at", 304, (), errno.EPERM),
    ("bpf", 321, (), errno.EPERM),
    ("io_uring_setup", 425, (), errno.EPERM),
    ("userfaultfd", 323, (), errno.EPERM),
    ("keyctl", 250, (), errno.EPERM),
    ("personality(linux)", 135, (0,), 0),
    ("personality(no randomisation)", 135, (0x40000,), errno.ENOSYS),
    ("chroot", 161, (), 0),
    ("a call of the future", 900, (), errno.ENOSYS),
]


@pytest.mark.parametrize(("name", "number", "arguments", "expected"), DEFAULT_DECISIONS)
def test_default_decisions(
    default: bytes, name: str, number: int, arguments: tuple[int, ...], expected: int
) -> None:
    assert decide(default, number, arguments) == expected, name


def test_the_32_bit_side(default: bytes) -> None:
    assert decide(default, 3, arch=I386) == 0  # read
    assert decide(default, 359, (2,), arch=I386) == 0  # socket(AF_INET)
    assert decide(default, 359, (38,), arch=I386) == errno.EAFNOSUPPORT
    assert decide(default, 102, (1,), arch=I386) != 0  # socketcall
    assert decide(default, 0x40000000 | 41, (38,)) != 0  # x32


CONDITIONAL = [
    ("CAP_SYS_ADMIN", 165),
    ("CAP_SYS_ADMIN", 435),
    ("CAP_SYS_PTRACE", 312),
    ("CAP_SYS_TIME", 227),
    ("CAP_SYS_MODULE", 175),
    ("CAP_DAC_READ_SEARCH", 304),
    ("CAP_BPF", 321),
    ("CAP_SYSLOG", 103),
]


@pytest.mark.parametrize(("capability", "number"), CONDITIONAL)
def test_a_capability_opens_its_calls(default: bytes, capability: str, number: int) -> None:
    assert decide(default, number) != 0
    more = compile_profile(default_profile((*DEFAULT_CAPABILITIES, capability)))
    assert decide(more, number) == 0


def test_a_profile_of_the_user() -> None:
    rules = (
        SyscallRule(("read", "write", "no_such_call"), "SCMP_ACT_ALLOW"),
        SyscallRule(("kill",), "SCMP_ACT_ALLOW", None, (SyscallArgument(1, 9, "SCMP_CMP_EQ"),)),
        SyscallRule(("open",), "SCMP_ACT_ERRNO", 13),
    )
    program = compile_profile(Seccomp("SCMP_ACT_KILL_PROCESS", syscalls=rules))
    assert [decide(program, number) for number in (0, 1, 2)] == [0, 0, 13]
    assert (decide(program, 62, (1, 9)), decide(program, 62, (1, 15))) == (0, "0x80000000")


@pytest.mark.parametrize(
    "profile",
    [
        Seccomp("SCMP_ACT_NONSENSE"),
        Seccomp("SCMP_ACT_ALLOW", architectures=("SCMP_ARCH_PDP11",)),
        Seccomp(
            "SCMP_ACT_ALLOW",
            syscalls=(
                SyscallRule(("read",), "SCMP_ACT_ERRNO", 1, (SyscallArgument(0, 1, "SCMP_CMP_LIKE"),)),
            ),
        ),
        Seccomp(
            "SCMP_ACT_ALLOW",
            syscalls=(SyscallRule(("read",), "SCMP_ACT_ERRNO", 1, (SyscallArgument(9, 1, "SCMP_CMP_EQ"),)),),
        ),
    ],
)
def test_bad_profiles(profile: Seccomp) -> None:
    with pytest.raises(InvalidArgument):
        compile_profile(profile)


def test_programs_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp_profile, "_memory", {})
    profile = Seccomp("SCMP_ACT_ALLOW", syscalls=(SyscallRule(("acct",), "SCMP_ACT_ERRNO", 1),))
    program = program_of(profile, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    assert file.read_bytes() == program
    monkeypatch.setattr(seccomp_profile, "_memory", {})
    monkeypatch.setattr(seccomp_profile, "compile_profile", None)  # from here on only the disk can answer
    assert program_of(profile, tmp_path / "cache") == program


@pytest.mark.parametrize(
    ("profile", "place"),
    [
        (Seccomp("SCMP_ACT_NOTIFY", listener_path="/s"), "linux.seccomp.defaultAction"),
        (
            Seccomp("SCMP_ACT_ALLOW", syscalls=(SyscallRule(("mkdir",), "SCMP_ACT_NOTIFY"),)),
            "linux.seccomp.listenerPath",
        ),
        (
            Seccomp(
                "SCMP_ACT_ALLOW", listener_path="@s", syscalls=(SyscallRule(("mkdir",), "SCMP_ACT_NOTIFY"),)
            ),
            "linux.seccomp.listenerPath",
        ),
        (
            Seccomp(
                "SCMP_ACT_ALLOW",
                listener_path="/s",
                syscalls=(SyscallRule(("read", "write"), "SCMP_ACT_NOTIFY"),),
            ),
            "linux.seccomp.syscalls[0]",
        ),
    ],
)
def test_listeners_that_nobody_could_serve(profile: Seccomp, place: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_listener(profile)
    assert caught.value.what.startswith(place)


def test_a_listener_that_no_rule_asks_is_not_used() -> None:
    assert check_listener(Seccomp("SCMP_ACT_ALLOW", listener_path="/s")) == ""
