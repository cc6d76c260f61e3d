"""The kernel ring inside of the machine: pure cgroup v2, systemd, AppArmor, every capability; both cgroup drivers.

Emulated, what is about cgroups alone takes ten minutes: LONGSHORE_VM_RING=cgroups runs that, LONGSHORE_VM_RING=full
(`make suites-vm`) all of it, and without the variable nothing of it is run.
"""

import os
from pathlib import Path

import pytest
import ring
from machine import Machine

RING = os.environ.get("LONGSHORE_VM_RING", "")
FULL = RING == "full"
HOURS = 4 * 3600 if FULL else 1500  # emulated, beside others
CHOICE = ("tests/engine/kernel/test_cgroup_driver.py", "tests/engine/kernel/test_machine_features.py")

pytestmark = [
    pytest.mark.timeout(HOURS),
    pytest.mark.skipif(not RING, reason="LONGSHORE_VM_RING=cgroups, or make suites-vm"),
]


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
