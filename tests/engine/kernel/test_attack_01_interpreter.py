"""CVE-2019-5736: a container overwrites the program that started it through /proc/<pid>/exe.

Ours is the host's python. What a container's process can see of it is a sealed copy in memory.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from attack_lab import until
from runtime_lab import PARENT, cgroup_parent, make_rootfs
from tests.engine.kernel.run_lab import Lab, demultiplex, process

from longshore.oci.runtime_spec import Mount
from longshore.runtime.bundle import default_spec
from longshore.runtime.client import Zygote
from longshore.runtime.messages import Exec
from longshore.runtime.sealed import seal_interpreter

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

# Try to write to the executable of every process that can be seen, again and again
OVERWRITE = """
while true; do
  for exe in /proc/[0-9]*/exe; do
    target=$(readlink $exe) || continue
    case $target in /bin/*) continue;; esac
    echo seen $target
    (echo '#!/bin/sh' > $exe) 2>/dev/null && echo written $target
  done
done
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path, "attack01")
    yield lab
    left = lab.cgroups()
    lab.close()
    assert left == []


@pytest.fixture
async def zygote() -> AsyncIterator[Zygote]:
    zygote = await Zygote.start()
    yield zygote
    await zygote.close()


def digest_of(path: str) -> str:
    return hashlib.sha256(Path(path).resolve().read_bytes()).hexdigest()


def test_attack_01_the_copy_is_complete_and_sealed() -> None:
    """Fails without the seals, or with a part of the interpreter."""
    fd = seal_interpreter()
    try:
        size = os.fstat(fd).st_size
        assert hashlib.sha256(os.pread(fd, size, 0)).hexdigest() == digest_of(sys.executable)
        wanted = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & wanted == wanted
        for attempt in (
            lambda: os.pwrite(fd, b"#!", 0),
            lambda: os.ftruncate(fd, 0),
            lambda: os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC),
        ):
            with pytest.raises(PermissionError):
                attempt()
    finally:
        os.close(fd)


async def test_attack_01_no_process_of_ours_runs_from_the_hosts_interpreter(lab: Lab, zygote: Zygote) -> None:
    """Fails when the zygote or a monitor runs from the host's python."""
    before = digest_of(sys.executable)
    monitor = await lab.run(zygote, lab.launch("c", "sh", "-c", OVERWRITE))
    for pid in (zygote.pid, lab.monitor_pid("c")):
        assert os.readlink(f"/proc/{pid}/exe") == "/memfd:longshore (deleted)"  # noqa: PTH115
        assert not any("memfd:longshore" in os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())  # noqa: PTH115
    for n in range(15):
        execution = await monitor.exec(Exec(f"e{n}", process("true"), attach=False))
        await execution.wait()
    await monitor.signal(signal.SIGKILL)
    await monitor.wait()
    assert not [text for _, text in lab.log("c") if text.startswith("written")]
    assert digest_of(sys.executable) == before
    await monitor.close()


@pytest.mark.parametrize("path", ["/proc/self/exe", "/evil"])
async def test_attack_01_an_entrypoint_that_is_a_link_to_our_exe_changes_nothing(
    lab: Lab, zygote: Zygote, path: str
) -> None:
    """Fails when a link of /proc is followed and the host's python is behind it."""
    before = digest_of(sys.executable)
    (lab.layers / "busybox/evil").symlink_to("/proc/self/exe")
    monitor = await lab.run(zygote, lab.launch("c", "sleep", "1000"))
    try:
        execution = await monitor.exec(Exec("a", process(path, "-c", "print(open('/proc/self/exe','r+b'))")))
    except Exception as error:
        assert "exec" in str(error)
    else:
        assert execution.reader is not None and execution.writer is not None
        output = demultiplex(await execution.reader.read())
        execution.writer.close()
        assert b"BufferedRandom" not in output["stdout"]
        assert await execution.wait() != 0
    await monitor.signal(signal.SIGKILL)
    await monitor.wait()
    await monitor.close()
    assert digest_of(sys.executable) == before


# The kernel itself opens the interpreter of a script: no look at the program beforehand helps. With the host's /usr in
# the container python even starts, and can say what it runs from.
SHEBANG = "#!/proc/self/exe\nimport os\nprint(os.readlink('/proc/self/exe'))\n"
USR = Mount("/usr", "bind", "/usr", ("rbind", "ro"))


def shebang_rootfs(root: Path) -> None:
    (root / "script").write_text(SHEBANG)
    (root / "script").chmod(0o755)
    for name in ("lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")


async def test_attack_01_a_script_of_our_exe_gets_the_sealed_copy(lab: Lab, zygote: Zygote) -> None:
    """Fails when the zygote is the host's python."""
    shebang_rootfs(lab.layers / "busybox")
    launch = lab.launch("c", "sleep", "1000")
    spec = msgspec.structs.replace(launch.spec, mounts=(*launch.spec.mounts, USR))
    monitor = await lab.run(zygote, msgspec.structs.replace(launch, spec=spec))
    execution = await monitor.exec(Exec("a", process("/script")))
    assert execution.reader is not None and execution.writer is not None
    output = demultiplex(await execution.reader.read())
    execution.writer.close()
    assert output["stdout"] == b"/memfd:longshore (deleted)\n", output
    await monitor.signal(signal.SIGKILL)
    await monitor.wait()
    await monitor.close()


def test_attack_01_longshore_oci_seals_itself(tmp_path: Path) -> None:
    """Fails when `longshore-oci` forks from the host's python: the script then says /usr/bin/python3.…"""
    bundle = tmp_path / "bundle"
    shebang_rootfs(make_rootfs(bundle / "rootfs"))
    spec = json.loads(msgspec.json.encode(default_spec()))
    spec["process"] |= {"args": ["/script"], "terminal": False}
    spec["mounts"] += json.loads(msgspec.json.encode([USR]))
    spec["linux"]["cgroupsPath"] = f"{PARENT}/oci-attack-{os.getpid()}"
    (bundle / "config.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "longshore.runtime.oci_command", "--root", str(tmp_path / "state")]
    with cgroup_parent():
        done = subprocess.run(
            [*command, "run", "--bundle", str(bundle), f"attack01-{os.getpid()}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.stdout == "/memfd:longshore (deleted)\n", done


# Whatever is born in the container's pid namespace: who can open its maps has its memory, and can write to it.
THIEF = """
import os
counter = os.open("/proc/loadavg", os.O_RDONLY)
print("watching", flush=True)
while True:
    last = int(os.pread(counter, 100, 0).split()[-1])  # the newest pid of this namespace, proc(5)
    for pid in (last + 1, last):
        try:
            fd = os.open(f"/proc/{pid}/maps", os.O_RDONLY)
            text = os.read(fd, 1 << 16)
            os.close(fd)
        except OSError:
            continue
        if b"longshore" in text:
            print("stolen", pid, flush=True)
"""


async def test_attack_01_the_memory_of_an_exec_is_closed(lab: Lab, zygote: Zygote) -> None:
    """The child of an exec shares the monitor's memory until its execve(2), and has the container's user and
    capabilities for the last part of that way: opened there, the memory of a host's root process could be written to.
    Fails when monitors are dumpable."""
    rootfs = lab.layers / "busybox"
    shebang_rootfs(rootfs)
    (rootfs / "thief.py").write_text(THIEF)
    launch = lab.launch("c", "/usr/bin/python3", "-I", "-S", "-B", "/thief.py")
    spec = msgspec.structs.replace(launch.spec, mounts=(*launch.spec.mounts, USR))
    monitor = await lab.run(zygote, msgspec.structs.replace(launch, spec=spec))
    await asyncio.to_thread(until, lambda: ("stdout", "watching\n") in lab.log("c"))
    for number in range(40):
        execution = await monitor.exec(Exec(f"e{number}", process("true", *["x" * 2000] * 40), attach=False))
        await execution.wait()
    await monitor.signal(signal.SIGKILL)
    await monitor.wait()
    await monitor.close()
    assert [text for _, text in lab.log("c")] == ["watching\n"]
