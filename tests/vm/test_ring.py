"""The kernel ring inside of the machine: pure cgroup v2, systemd, AppArmor, every capability; both cgroup drivers.

`make test-vm` runs what is about cgroups and a choice of the rest; LONGSHORE_VM_RING=full (`make suites-vm`) all of it.
"""

import os
from pathlib import Path

import pytest
import ring
from machine import Machine

FULL = os.environ.get("LONGSHORE_VM_RING") == "full"
HOURS = 4 * 3600 if FULL else 1500  # emulated, beside others
CHOICE = ("tests/engine/kernel/test_cgroup_driver.py", "tests/engine/kernel/test_machine_features.py")

pytestmark = pytest.mark.timeout(HOURS)


@pytest.fixture(scope="module")
def prepared(machine: Machine, work: Path) -> Machine:
    ring.install(machine, work)
    return machine


@pytest.mark.parametrize("driver", ["systemd", "cgroupfs"])
def test_the_kernel_ring(prepared: Machine, driver: str) -> None:
    outcome = ring.run_tests(prepared, driver, ("tests/engine/kernel",) if FULL else CHOICE, HOURS)
    print(outcome.text)
    assert outcome.code == 0, outcome.text[-20000:]
    assert outcome.passed > 10
