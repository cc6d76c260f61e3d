# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: pymachine
short_description: The hosts that pymachine made
version_added: 0.1.0
description:
  - Reads the store of C(pymachine) on the controller. Nothing is run and no host is asked.
  - Every host is reached by SSH with the key of the machine, and its host key has to be the one that pymachine pinned
    when it made the machine.
  - The name of the file has to end in C(pymachine.yml) or C(pymachine.yaml).
  - The groups are O(group) with all machines, C(driver_NAME) for each driver, and C(unfinished) for machines whose
    creation has not come to its end; those are not in O(group). Machines without SSH are left out.
author:
  - The Longshore authors (@longshore)
extends_documentation_fragment:
  - ansible.builtin.constructed
options:
  plugin:
    description: Marks the file as one for this plugin.
    type: str
    required: true
    choices: [longshore.fleet.pymachine]
  store:
    description: The store. A relative path begins at the folder of the inventory file.
    type: path
    default: ~/.pymachine
    env:
      - name: PYMACHINE_STORAGE_PATH
  machines:
    description: Names, or patterns like V(web*), of the machines to take.
    type: list
    elements: str
    default: ["*"]
  group:
    description: Group of all machines.
    type: str
    default: machines
"""

EXAMPLES = r"""
# pymachine.yml: every machine, those of names like web1 in the group "web" as well
plugin: longshore.fleet.pymachine
strict: true
groups:
  web: inventory_hostname is match("web")
keyed_groups:
  - key: pymachine_driver
    prefix: driver
"""

import fnmatch
import json
import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable


def read_machine(folder: Path) -> dict[str, Any] | None:
    """The machine's config.json, None when the creation has not got that far. Raises ValueError that names the file."""
    path = folder / "config.json"
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as cause:
        raise ValueError(f"cannot read {path}: {cause}") from cause
    if not isinstance(value, dict) or not isinstance(value.get("Driver"), dict):
        raise ValueError(f"{path} is not a machine of pymachine")
    return value


def host_variables(name: str, folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """How Ansible reaches the machine; None when it has no address or no SSH."""
    driver = config["Driver"]
    address = driver.get("IPAddress")
    if not address or config.get("DriverName") == "none":
        return None
    known_hosts = str(folder / "known_hosts").replace("%", "%%")
    options = [
        "-o", f'UserKnownHostsFile="{known_hosts}"' if " " in known_hosts else f"UserKnownHostsFile={known_hosts}",
        "-o", "GlobalKnownHostsFile=/dev/null",
        "-o", "StrictHostKeyChecking=yes",
        "-o", f"HostKeyAlias={name}",  # pinned by name: the address may change
    ]  # fmt: skip
    variables: dict[str, Any] = {
        "ansible_connection": "ssh",
        "ansible_host": address,
        "ansible_port": int(driver.get("SSHPort") or 22),
        "ansible_user": driver.get("SSHUser") or "root",
        "pymachine_driver": config.get("DriverName", ""),
        "pymachine_folder": str(folder),
    }
    key = driver.get("SSHKeyPath") or (str(folder / "id_ed25519") if (folder / "id_ed25519").exists() else "")
    if key:
        variables["ansible_ssh_private_key_file"] = key
        options += ["-o", "IdentitiesOnly=yes"]
    variables["ansible_ssh_common_args"] = shlex.join(options)
    return variables


class InventoryModule(BaseInventoryPlugin, Constructable):
    NAME = "longshore.fleet.pymachine"

    def verify_file(self, path: str) -> bool:
        return super().verify_file(path) and path.endswith(("pymachine.yml", "pymachine.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        everything = self.inventory.add_group(self.get_option("group"))
        machines = Path(self.get_option("store")).expanduser() / "machines"
        if not machines.is_absolute():
            machines = Path(path).absolute().parent / machines
        if not machines.is_dir():
            self.display.warning(
                f"there are no machines in {machines.parent}: create one with 'pymachine create'"
            )
            return
        for folder in sorted(machines.iterdir()):
            name = folder.name
            if name.startswith(".") or not folder.is_dir() or not self._wanted(name):
                continue
            self._add(everything, name, folder)

    def _wanted(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.get_option("machines"))

    def _add(self, everything: str, name: str, folder: Path) -> None:
        try:
            config = read_machine(folder)
            variables = host_variables(name, folder, config) if config else None
        except ValueError as cause:
            raise AnsibleParserError(str(cause)) from cause
        unfinished = (folder / "create.journal").exists()
        if config is None or variables is None:
            self.display.vv(f"machine {name} has no address for SSH")
            return
        self.inventory.add_host(name)
        for key, value in variables.items():
            self.inventory.set_variable(name, key, value)
        groups = (
            ["unfinished"]
            if unfinished
            else [everything, self._sanitize_group_name(f"driver_{variables['pymachine_driver']}")]
        )
        for group in groups:
            self.inventory.add_host(name, group=self.inventory.add_group(group))
        strict = self.get_option("strict")
        known = self.inventory.get_host(name).get_vars()
        self._set_composite_vars(self.get_option("compose"), known, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), known, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), known, name, strict=strict)
