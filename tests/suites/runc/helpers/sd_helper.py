"""Start and stop a systemd slice: sd-helper [--parent SLICE] start|stop NAME, by the manager's own command."""

import argparse
import subprocess
import sys

parser = argparse.ArgumentParser("sd-helper")
parser.add_argument("--parent", default="")
parser.add_argument("action", choices=("start", "stop"))
parser.add_argument("name")
arguments = parser.parse_args()
# A slice's parent is in its name: machine-test.slice lies in machine.slice, systemd.slice(5).
sys.exit(subprocess.run(["systemctl", arguments.action, arguments.name], check=False).returncode)
