"""A child process made of nothing but system calls.

`fork` copies the interpreter's page tables, every object that the child then touches costs the copy of a page, and
execve(2) tears all of it down again: 6 of the 9 ms that one `docker exec` cost. A `Script` is the list of calls
between birth and execve(2), planned in full by the parent. Its child shares the parent's memory (clone(2) with
CLONE_VM and CLONE_VFORK, what vfork(2) and posix_spawn(3) do) and so must not run any Python: a loop of 81 bytes of
machine code makes the calls and notes their results, which the parent then reads from its own memory.

So there is also nothing of an interpreter inside the container before its program is: no import, no codec, no NSS.

Where the loop is not known for the processor, or memory cannot be made executable, `run` forks and makes the same
calls from Python.
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

_WORDS = 9  # number, six arguments, result, address of the step to go on with after an error
_SIZE = _WORDS * 8
_RESULT, _ON_ERROR = 7, 8
_PENDING = (1 << 63) - 1  # no call returns this
_MASK = (1 << 64) - 1
_CLONE_FLAGS = 0x100 | 0x4000 | signal.SIGCHLD  # CLONE_VM, CLONE_VFORK

# long loop(struct step *first, long flags): clone, in the child make one call after the other. A step is _WORDS words.
# fmt: off
_LOOPS = {
    "x86_64": (
        "53"  # push rbx
        "4889fb"  # mov rbx, rdi          the step
        "4889f7"  # mov rdi, rsi          clone(flags, 0, 0, 0, 0): the child runs on our stack, which it
        "31f631d2"  # xor esi, esi; edx     leaves alone, and we wait until it has executed or is gone
        "4531d24531c0"  # xor r10d, r10d; r8d
        "b838000000"  # mov eax, 56
        "0f05"  # syscall
        "4885c0"  # test rax, rax
        "7402"  # jz next
        "5bc3"  # pop rbx; ret
        "488b03"  # next: mov rax, [rbx]
        "488b7b08"  # mov rdi, [rbx+8]
        "488b7310"  # mov rsi, [rbx+16]
        "488b5318"  # mov rdx, [rbx+24]
        "4c8b5320"  # mov r10, [rbx+32]
        "4c8b4328"  # mov r8, [rbx+40]
        "4c8b4b30"  # mov r9, [rbx+48]
        "0f05"  # syscall
        "48894338"  # mov [rbx+56], rax
        "4885c0"  # test rax, rax
        "7806"  # js failed
        "4883c348"  # add rbx, 72
        "ebd4"  # jmp next
        "488b5b40"  # failed: mov rbx, [rbx+64]
        "ebce"  # jmp next
    ),
    "aarch64": (
        "f37bbfa9"  # stp x19, x30, [sp, #-16]!
        "f30300aa"  # mov x19, x0
        "e00301aa"  # mov x0, x1
        "010080d2"  # mov x1, #0
        "020080d2"  # mov x2, #0
        "030080d2"  # mov x3, #0
        "040080d2"  # mov x4, #0
        "881b80d2"  # mov x8, #220
        "010000d4"  # svc #0
        "600000b4"  # cbz x0, next
        "f37bc1a8"  # ldp x19, x30, [sp], #16
        "c0035fd6"  # ret
        "680240f9"  # next: ldr x8, [x19]
        "608640a9"  # ldp x0, x1, [x19, #8]
        "628e41a9"  # ldp x2, x3, [x19, #24]
        "649642a9"  # ldp x4, x5, [x19, #40]
        "010000d4"  # svc #0
        "601e00f9"  # str x0, [x19, #56]
        "6000f8b7"  # tbnz x0, #63, failed
        "73220191"  # add x19, x19, #72
        "f8ffff17"  # b next
        "732240f9"  # failed: ldr x19, [x19, #64]
        "f6ffff17"  # b next
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

_ALL_SIGNALS, _NO_SIGNALS = b"\xff" * 8, bytes(8)


class Failure(OSError):
    """A call of the child failed. `what` is what the planner called it; nothing is left of the child."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(code, os.strerror(code), what)
        self.what = what


class Script:
    """The life of a child up to its execve(2). Plan with `call`, then `run` once."""

    def __init__(self) -> None:
        self._steps = array.array("Q")
        self._names: list[str] = []
        self._may_fail: list[bool] = []
        self._kept: list[object] = []  # what the steps point to

    def call(
        self, name: str, *arguments: int | bytes | list[bytes], what: str = "", may_fail: bool = False
    ) -> None:
        """One call. Bytes become a pointer to a NUL-terminated copy, a list one to an array that ends with NULL.

        `may_fail`: the child goes on. Otherwise the child ends, and `run` raises Failure with `what`.
        """
        number = call_number(name)
        if number is None:
            raise OSError(errno.ENOSYS, f"not known on {MACHINE}", name)
        values = [value & _MASK if isinstance(value, int) else self._pointer(value) for value in arguments]
        self._steps.extend((number, *values, *(0,) * (6 - len(values)), _PENDING, 0))
        self._names.append(what or name)
        self._may_fail.append(may_fail)

    def prctl(self, option: int, second: int = 0, third: int = 0, *, may_fail: bool = False) -> None:
        """prctl(2) wants its unused arguments to be zero."""
        self.call("prctl", option, second, third, what="prctl", may_fail=may_fail)

    def _pointer(self, value: bytes | list[bytes]) -> int:
        kept: object
        if isinstance(value, bytes):
            kept = ctypes.create_string_buffer(value)
        else:
            kept = (ctypes.c_char_p * (len(value) + 1))(*value, None)
        self._kept.append(kept)
        return ctypes.addressof(kept)

    def pointer_to(self, value: bytes) -> int:
        """The address of a copy of `value` that lives as long as the script: for structures with pointers in them."""
        return self._pointer(value)

    def run(self, *, shared: bool = True, meanwhile: Callable[[int], None] | None = None) -> int:
        """Let the child live; returns its pid once it has executed its program. The caller reaps it.

        `shared` false: fork although the loop would do; a process that shares memory may not join a time namespace.
        `meanwhile`: called with the pid while the child lives, not with `shared`; what it raises ends the child.
        Raises Failure (the child is reaped then), OSError when there is no child at all.
        """
        # The child has our memory until its execve(2), and soon no more rights than the container's own processes:
        # whoever of them opened its /proc/<pid>/mem would write to ours. The flag belongs to the memory, prctl(2).
        set_dumpable(False)
        self.call("exit_group", 70)
        table, start = self._steps, self._steps.buffer_info()[0]
        last = start + len(table) * 8 - _SIZE
        for index, may_fail in enumerate(self._may_fail[:-1]):
            table[index * _WORDS + _ON_ERROR] = start + (index + 1) * _SIZE if may_fail else last
        loop = _native_loop() if shared else None
        # Nobody may interrupt the child with a handler that would run Python in our memory
        mask = ctypes.create_string_buffer(8)
        _sigprocmask(signal.SIG_SETMASK, _ALL_SIGNALS, mask, 8)
        try:
            pid = loop(start, _CLONE_FLAGS) if loop else self._fork(meanwhile)
        finally:
            _sigprocmask(signal.SIG_SETMASK, mask, None, 8)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid), "clone")
        self._judge(pid)
        return pid

    def _judge(self, pid: int) -> None:
        for index, may_fail in enumerate(self._may_fail):
            result = self._steps[index * _WORDS + _RESULT]
            if result >> 63 and not may_fail:
                os.waitpid(pid, 0)
                raise Failure((1 << 64) - result, self._names[index])

    def _fork(self, meanwhile: Callable[[int], None] | None) -> int:
        """The same without sharing memory; the child writes its results into a pipe that execve(2) closes."""
        reader, writer = os.pipe()
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    # Out of the way: planners count on the lowest free numbers
                    high = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, 512)
                    os.close(reader)
                    os.close(writer)
                    self._make_calls(high)
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
            index, code = int.from_bytes(report[:8], "little"), int.from_bytes(report[8:], "little")
            self._steps[index * _WORDS + _RESULT] = -code & _MASK
        return pid

    def _make_calls(self, writer: int) -> None:
        call = library["syscall"]
        call.restype = ctypes.c_long
        for index, may_fail in enumerate(self._may_fail[:-1]):
            words = self._steps[index * _WORDS : index * _WORDS + 7]
            if words[0] == call_number("close_range") and words[1] <= writer and not words[3]:
                # The report must stay until the end
                call(*map(ctypes.c_ulong, (words[0], words[1], writer - 1, 0)))
                words[1] = writer + 1
            if call(*map(ctypes.c_ulong, words)) < 0 and not may_fail:
                code = ctypes.get_errno()
                os.write(writer, index.to_bytes(8, "little") + code.to_bytes(8, "little"))
                return


@cache
def _native_loop() -> Callable[[int, int], int] | None:
    """The machine code, callable; None when this machine has none or does not allow it. One page, never writable again."""
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
    return ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_long)(address)


def prepare() -> None:
    """Make the page before the zygote forks, so that all monitors share it. Twice is fine."""
    _native_loop()


def is_native() -> bool:
    """Whether children of scripts share memory here, or are forked."""
    return _native_loop() is not None
