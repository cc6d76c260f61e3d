"""A child process made of nothing but system calls.

`fork` copies the interpreter's page tables, every object that the child then touches costs the copy of a page, and
execve(2) tears all of it down again: 6 of the 9 ms that one `docker exec` cost, and most of the memory of an idle
monitor. A `Script` is a list of calls, planned in full by the parent. A loop of 105 bytes of machine code makes them in
the child and notes their results; no Python runs there.

- `run`: the calls between birth and execve(2). The child shares the parent's memory (clone(2) with CLONE_VM and
  CLONE_VFORK, what vfork(2) and posix_spawn(3) do), so that the parent reads the results from its own memory. There is
  nothing of an interpreter inside a container before its program is: no import, no codec, no NSS.
- `enter`: the calls are the process's own, and may clone it; each process comes back to Python where its calls end. What
  a copy has not touched until then is still its parent's memory.

Where the loop is not known for the processor, or memory cannot be made executable, a forked child makes the same calls
from Python.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import signal
from collections.abc import Callable
from functools import cache

from longshore.kernel.libc import MACHINE, call_number, library, system_call
from longshore.kernel.processes import set_dumpable

_WORDS = 10  # number, six arguments, result, address to go on at after an error, and after the result 0
_SIZE = _WORDS * 8
_RESULT, _ON_ERROR, _ON_ZERO = 7, 8, 9
_BACK = (1 << 64) - 1  # no number of a call: leave the loop with the first argument
_PENDING = (1 << 63) - 1  # no call returns this
_MASK = (1 << 64) - 1
_CLONE_VM, _CLONE_VFORK = 0x100, 0x4000

# long loop(struct step *first, long flags): clone; in the child make one call after the other. Without flags no clone.
# A step is _WORDS words.
# fmt: off
_LOOPS = {
    "x86_64": (
        "53"              # push rbx
        "4889fb"          # mov rbx, rdi          the step
        "4889f7"          # mov rdi, rsi
        "4885ff"          # test rdi, rdi
        "7418"            # jz next
        "31f631d2"        # xor esi, esi; edx     clone(flags, 0, 0, 0, 0). A child that shares memory runs on
        "4531d24531c0"    # xor r10d, r10d; r8d   our stack, which it leaves alone, and we wait until it has
        "b838000000"      # mov eax, 56           executed or is gone
        "0f05"            # syscall
        "4885c0"          # test rax, rax
        "7402"            # jz next
        "5bc3"            # leave: pop rbx; ret
        "488b03"          # next: mov rax, [rbx]
        "4885c0"          # test rax, rax
        "7837"            # js back
        "488b7b08"        # mov rdi, [rbx+8]
        "488b7310"        # mov rsi, [rbx+16]
        "488b5318"        # mov rdx, [rbx+24]
        "4c8b5320"        # mov r10, [rbx+32]
        "4c8b4328"        # mov r8, [rbx+40]
        "4c8b4b30"        # mov r9, [rbx+48]
        "0f05"            # syscall
        "48894338"        # mov [rbx+56], rax
        "4885c0"          # test rax, rax
        "7808"            # js failed
        "740c"            # jz zero
        "4883c350"        # add rbx, 80
        "ebcd"            # jmp next
        "488b5b40"        # failed: mov rbx, [rbx+64]
        "ebc7"            # jmp next
        "488b5b48"        # zero: mov rbx, [rbx+72]
        "ebc1"            # jmp next
        "488b4308"        # back: mov rax, [rbx+8]
        "ebb9"            # jmp leave
    ),
    "aarch64": (
        "f37bbfa9"        # stp x19, x30, [sp, #-16]!
        "f30300aa"        # mov x19, x0
        "e00301aa"        # mov x0, x1
        "400100b4"        # cbz x0, next
        "010080d2"        # mov x1, #0
        "020080d2"        # mov x2, #0
        "030080d2"        # mov x3, #0
        "040080d2"        # mov x4, #0
        "881b80d2"        # mov x8, #220
        "010000d4"        # svc #0
        "600000b4"        # cbz x0, next
        "f37bc1a8"        # leave: ldp x19, x30, [sp], #16
        "c0035fd6"        # ret
        "680240f9"        # next: ldr x8, [x19]
        "c801f8b7"        # tbnz x8, #63, back
        "608640a9"        # ldp x0, x1, [x19, #8]
        "628e41a9"        # ldp x2, x3, [x19, #24]
        "649642a9"        # ldp x4, x5, [x19, #40]
        "010000d4"        # svc #0
        "601e00f9"        # str x0, [x19, #56]
        "8000f8b7"        # tbnz x0, #63, failed
        "a00000b4"        # cbz x0, zero
        "73420191"        # add x19, x19, #80
        "f6ffff17"        # b next
        "732240f9"        # failed: ldr x19, [x19, #64]
        "f4ffff17"        # b next
        "732640f9"        # zero: ldr x19, [x19, #72]
        "f2ffff17"        # b next
        "600640f9"        # back: ldr x0, [x19, #8]
        "eeffff17"        # b leave
    ),
}
# fmt: on

_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_PRIVATE, _MAP_ANONYMOUS = 2, 0x20

_mmap = library["mmap"]
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_mmap.restype = ctypes.c_void_p
_mprotect = library["mprotect"]
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_sigprocmask = system_call("rt_sigprocmask", ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)

_ALL_SIGNALS = b"\xff" * 8


class Failure(OSError):
    """A call of the child failed. `what` is what the planner called it; nothing is left of the child."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(code, os.strerror(code), what)
        self.what = what


class Script:
    """A list of calls. Plan with `call`, then `run` it in a child once, or `enter` it as often as wanted."""

    def __init__(self) -> None:
        self._steps = array.array("Q")
        self._names: list[str] = []
        self._on_error: list[int | None] = []  # a step, None for the end
        self._on_zero: dict[int, int] = {}
        self._kept: list[object] = []  # what the steps point to
        self._ready = False

    def call(
        self, name: str, *arguments: int | bytes | list[bytes], what: str = "", may_fail: bool = False
    ) -> int:
        """One call; returns its number. Bytes become a pointer to a NUL-terminated copy, a list one to an array that
        ends with NULL.

        `may_fail`: the child goes on. Otherwise the child ends, and `run` raises Failure with `what`.
        """
        number = call_number(name)
        if number is None:
            raise OSError(errno.ENOSYS, f"not known on {MACHINE}", name)
        return self._add(number, arguments, what or name, may_fail=may_fail)

    def prctl(self, option: int, second: int = 0, third: int = 0, *, may_fail: bool = False) -> int:
        """prctl(2) wants its unused arguments to be zero."""
        return self.call("prctl", option, second, third, may_fail=may_fail)

    def back(self, value: int) -> int:
        """Whoever gets here comes back to Python, where `enter` returns `value`."""
        return self._add(_BACK, (value,), "back")

    def when_zero(self, step: int, target: int) -> None:
        """Where the child goes on when that call returns 0; without this, at the next one."""
        self._on_zero[step] = target

    def when_failed(self, step: int, target: int) -> None:
        self._on_error[step] = target

    def argument(self, step: int, position: int) -> int:
        """The address of an argument (0 to 5) of a planned call, for an earlier one to write its result to.

        Only valid once nothing more is planned.
        """
        self._prepare()
        return self._address(step) + 8 * (1 + position)

    def set_argument(self, step: int, position: int, value: int) -> None:
        self._steps[step * _WORDS + 1 + position] = value & _MASK

    def result(self, step: int) -> int | None:
        """What that call returned to this process or to an ancestor: -errno for a failure, None when it was not made."""
        value = self._steps[step * _WORDS + _RESULT]
        return None if value == _PENDING else _signed(value)

    def _add(
        self,
        number: int,
        arguments: tuple[int | bytes | list[bytes], ...],
        name: str,
        *,
        may_fail: bool = False,
    ) -> int:
        values = [value & _MASK if isinstance(value, int) else self.pointer_to(value) for value in arguments]
        self._steps.extend((number, *values, *(0,) * (6 - len(values)), _PENDING, 0, 0))
        step = len(self._names)
        self._names.append(name)
        self._on_error.append(step + 1 if may_fail else None)
        return step

    def pointer_to(self, value: bytes | list[bytes]) -> int:
        """The address of a copy that lives as long as the script: for structures with pointers in them."""
        kept: object
        if isinstance(value, bytes):
            kept = ctypes.create_string_buffer(value)
        else:
            kept = (ctypes.c_char_p * (len(value) + 1))(*value, None)
        self._kept.append(kept)
        return ctypes.addressof(kept)

    def _address(self, step: int) -> int:
        return self._steps.buffer_info()[0] + step * _SIZE

    def _prepare(self) -> None:
        """Turn the numbers of steps into addresses: from here on the table stays where it is. Twice is fine."""
        if self._ready:
            return
        self._ready = True
        last = self.call("exit_group", 70)
        start = self._steps.buffer_info()[0]
        steps, on_zero = self._steps, self._on_zero
        for step, target in enumerate(self._on_error):
            base = step * _WORDS
            steps[base + _ON_ERROR] = start + (last if target is None else target) * _SIZE
            steps[base + _ON_ZERO] = start + on_zero.get(step, step + 1) * _SIZE
        steps[last * _WORDS + _ON_ERROR] = 0  # a filter that forbids to exit: die of the address

    def enter(self) -> int:
        """Make the calls; returns the value of the `back` that was met, by this process or one that it cloned.

        For a process without threads.
        """
        self._prepare()
        loop = _native_loop()
        return loop(self._steps.buffer_info()[0], 0) if loop else self._interpret()

    def run(self, *, shared: bool = True, meanwhile: Callable[[int], None] | None = None) -> int:
        """Let the child live; returns its pid once it has executed its program. The caller reaps it.

        `shared` false: fork although the loop would do; a process that shares memory may not join a time namespace.
        `meanwhile`: called with the pid while the child lives, not with `shared`; what it raises ends the child.
        Raises Failure (the child is reaped then), OSError when there is no child at all.
        """
        # The child has our memory until its execve(2), and soon no more rights than the container's own processes:
        # whoever of them opened its /proc/<pid>/mem would write to ours. The flag belongs to the memory, prctl(2).
        set_dumpable(False)
        self._prepare()
        loop = _native_loop() if shared else None
        # Nobody may interrupt the child with a handler that would run Python in our memory
        mask = ctypes.create_string_buffer(8)
        _sigprocmask(signal.SIG_SETMASK, _ALL_SIGNALS, mask, 8)
        try:
            flags = _CLONE_VM | _CLONE_VFORK | signal.SIGCHLD
            pid = loop(self._steps.buffer_info()[0], flags) if loop else self._run_forked(meanwhile)
        finally:
            _sigprocmask(signal.SIG_SETMASK, mask, None, 8)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid), "clone")
        for step, target in enumerate(self._on_error):
            if target is None and (result := _signed(self._steps[step * _WORDS + _RESULT])) < 0:
                os.waitpid(pid, 0)
                raise Failure(-result, self._names[step])
        return pid

    def _run_forked(self, meanwhile: Callable[[int], None] | None) -> int:
        """The same without sharing memory; the child writes what failed into a pipe that execve(2) closes."""
        reader, writer = os.pipe()
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    # Out of the way: planners count on the lowest free numbers
                    high = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, 512)
                    os.close(reader)
                    os.close(writer)
                    self._interpret(report=high)
                finally:
                    os._exit(70)
            os.close(writer)
            writer = -1
            if meanwhile is not None:
                try:
                    meanwhile(pid)
                except BaseException:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    raise
            report = os.read(reader, 16)
        except OSError as error:
            return -(error.errno or errno.EAGAIN)
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)
        if report:
            step, code = int.from_bytes(report[:8], "little"), int.from_bytes(report[8:], "little")
            self._steps[step * _WORDS + _RESULT] = -code & _MASK
        return pid

    def _interpret(self, report: int = -1) -> int:
        """What the loop does. `report`: a descriptor that stays open and is told of a failure that ends the child."""
        make, steps, step = library["syscall"], self._steps, 0
        make.restype = ctypes.c_long
        while True:
            words = steps[step * _WORDS : step * _WORDS + 7]
            if words[0] == _BACK:
                return _signed(words[1])
            if words[0] == call_number("close_range") and words[1] <= report and not words[3]:
                make(*map(ctypes.c_ulong, (words[0], words[1], report - 1, 0)))
                words[1] = report + 1
            result = make(*map(ctypes.c_ulong, words))
            if result < 0:
                result = -ctypes.get_errno()
                if self._on_error[step] is None and report >= 0:
                    os.write(report, step.to_bytes(8, "little") + (-result).to_bytes(8, "little"))
            steps[step * _WORDS + _RESULT] = result & _MASK
            if result > 0:
                step += 1
            else:
                target = steps[step * _WORDS + (_ON_ZERO if result == 0 else _ON_ERROR)]
                step = (target - steps.buffer_info()[0]) // _SIZE


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


@cache
def _native_loop() -> Callable[[int, int], int] | None:
    """The machine code, callable; None when this machine has none or does not allow it.

    One page, never writable again. The GIL stays held over the call: a copy of a process in which it is free would have
    to take it, and in a child that shares memory there is nobody to give it back to.
    """
    code = bytes.fromhex(_LOOPS.get(MACHINE, ""))
    if not code:
        return None
    length = 4096
    address = _mmap(None, length, _PROT_READ | _PROT_WRITE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        return None
    ctypes.memmove(address, code, len(code))
    if _mprotect(address, length, _PROT_READ | _PROT_EXEC):  # SELinux without execmem
        return None
    return ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_long)(address)


def prepare() -> None:
    """Make the page before the zygote forks, so that all monitors share it. Twice is fine."""
    _native_loop()


def is_native() -> bool:
    """Whether the machine's own loop makes the calls here, not Python."""
    return _native_loop() is not None
