"""docs/reference/run-flags.md is what the test suite says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_flag_of_docker_run_has_a_test_and_the_page_is_in_step() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/run_flags.py", "--check"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
