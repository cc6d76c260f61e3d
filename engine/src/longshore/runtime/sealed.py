"""A copy of the interpreter that no container can write to, CVE-2019-5736; and `longshore-oci`, which runs from it.

A process about to enter a container is for some instructions still the program that started it. A program in there
whose first line is `#!/proc/self/exe` would run, and so get hold of, the host's python. Only os is imported: the
command's own imports come after the exec, not twice.
"""
# ruff: noqa: PTH115

import fcntl
import os
import sys

NAME = "longshore"
_ENTERING = frozenset({"create", "run", "exec", "restore"})  # commands that fork a process into a container


def seal_interpreter() -> int:
    """A copy of the running python executable in sealed memory: executable, but nobody can write to it.

    Returns a descriptor that stays open over exec when passed on. Costs the executable's size (7 MB) once per
    host as long as processes run from it. Raises OSError.
    """
    fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(os.path.realpath(sys.executable), "rb") as source:
            left = os.fstat(source.fileno()).st_size
            while left and (sent := os.sendfile(fd, source.fileno(), None, left)):
                left -= sent
        # fcntl(2): no more seals, not shorter, not longer, no write
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_sealed() -> bool:
    """Whether this process runs from such a copy."""
    return os.readlink("/proc/self/exe").startswith(f"/memfd:{NAME}")


def main() -> int:
    """The entry point of `longshore-oci`: what enters a container starts once more, from a sealed copy of python."""
    if _ENTERING & set(sys.argv) and not is_sealed():
        sealed = seal_interpreter()
        # argv[0] must be the interpreter's real path: Python derives its prefix, and with that its modules, from it.
        os.execv(f"/proc/self/fd/{sealed}", [sys.executable, *sys.orig_argv[1:]])
    # msgspec asks it for what typing has since Python 3.11, and its import costs a third of a short command
    sys.modules["typing_extensions"] = None  # pyright: ignore[reportArgumentType]
    from longshore.runtime.oci_command.main import main as run_command

    return run_command()


if __name__ == "__main__":
    sys.exit(main())
