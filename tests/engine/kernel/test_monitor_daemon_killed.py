"""The promise of the process model: `kill -9` of the daemon at any instant loses nothing."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.kernel.run_lab import Lab, wait_until

from longshore.runtime import records
from longshore.runtime.client import read_exit, reconnect

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

# Writes about 1,000 lines a second until it is told to end, so that no machine is too fast or too slow for the test
LOGGER = """
trap 'stop=1' TERM
i=0
while [ -z "$stop" ]; do echo line $i; i=$((i+1)); usleep 800; done
echo end $i
exit 42
"""

# The daemon's part: launch 20 containers, tell their pids, stay
DAEMON = """
import asyncio, sys
from pathlib import Path
from longshore.runtime.client import Zygote
from group_lab import Groups
from tests.engine.kernel.run_lab import Lab

async def main():
    lab = Lab.__new__(Lab)
    lab.folder, lab.groups = Path(sys.argv[1]), Groups(sys.argv[2])
    lab.layers = lab.folder / "layers"
    zygote = await Zygote.start()
    launches = [lab.launch("logger", "sh", "-c", sys.argv[3])]
    launches += [lab.launch(f"short{n}", "sh", "-c", f"sleep 1; exit {n}") for n in range(1, 4)]
    launches += [lab.launch(f"long{n}", "sleep", "1000") for n in range(16)]
    monitors = [await lab.run(zygote, launch) for launch in launches]
    print(zygote.pid, *(monitor.pid for monitor in monitors), flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path, "killed")
    yield lab
    left = lab.cgroups()
    lab.close()
    assert left == []


def start_daemon(lab: Lab) -> subprocess.Popen[str]:
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(lab.folder), lab.groups.name, LOGGER],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root}/tests/engine/kernel"},
    )


async def test_twenty_containers_and_a_busy_log_survive_the_killed_daemon(lab: Lab) -> None:
    daemon = start_daemon(lab)
    assert daemon.stdout is not None
    zygote, *pids = map(int, (await asyncio.to_thread(daemon.stdout.readline)).split())
    written = len(lab.log("logger"))
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    daemon.stdout.close()
    assert written > 0  # it was killed in the middle
    assert wait_until(lambda: records.start_time(zygote) is None)  # it follows its daemon
    await asyncio.sleep(1.5)  # the short ones end while nobody watches

    names = ["logger", *(f"short{n}" for n in range(1, 4)), *(f"long{n}" for n in range(16))]
    found = {name: await reconnect(name, lab.state_dir(name), lab.exit_path(name)) for name in names}
    for n in range(1, 4):
        assert found[f"short{n}"] is None
        record = read_exit(lab.exit_path(f"short{n}"))
        assert record is not None and (record.code, record.error) == (n, "")
    alive = {name: monitor for name, monitor in found.items() if monitor is not None}
    assert sorted(alive) == sorted(["logger", *(f"long{n}" for n in range(16))])
    assert {monitor.pid for monitor in alive.values()} <= set(pids)  # none was restarted

    logger = alive.pop("logger")
    await logger.signal(signal.SIGTERM)
    assert (await asyncio.wait_for(logger.wait(), 60)).code == 42
    *lines, (_, last) = lab.log("logger")
    assert len(lines) > written
    assert lines == [("stdout", f"line {n}\n") for n in range(len(lines))]
    assert last == f"end {len(lines)}\n"
    for monitor in alive.values():
        assert monitor.exited is None
        await monitor.signal(signal.SIGKILL)
    assert [(await monitor.wait()).code for monitor in alive.values()] == [137] * 16
    for monitor in alive.values():
        await monitor.close()
