"""CVE-2019-5736: a container overwrites the program that started it through /proc/<pid>/exe.

Ours is the host's python. What a container's process can see of it is a sealed copy in memory.
"""

import fcntl
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.engine.kernel.run_lab import Lab, demultiplex, process

from longshore.runtime.client import Zygote
from longshore.runtime.messages import Exec
from longshore.runtime.zygote_client import seal_interpreter

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


def test_the_copy_is_complete_and_sealed() -> None:
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
    before = digest_of(sys.executable)
    monitor = await lab.run(zygote, lab.launch("c", "sh", "-c", OVERWRITE))
    for pid in (zygote.pid, lab.monitor_pid("c")):
        assert os.readlink(f"/proc/{pid}/exe") == "/memfd:longshore (deleted)"  # noqa: PTH115
        assert not any("memfd" in os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())  # noqa: PTH115
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
