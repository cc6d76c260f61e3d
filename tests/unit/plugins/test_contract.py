# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Ansible users rely on: documentation, argument specs, playbooks and inventories that hold together."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))
BIN = Path(sys.executable).parent
PREFIX = "ansible_collections.longshore.fleet.plugins"


def ansible(command: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [str(BIN / command), *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def spec_of(module: str) -> dict[str, Any]:
    shared = importlib.import_module(f"{PREFIX}.module_utils._{module.removesuffix('_info')}")
    return shared.INFO_ARGUMENTS if module.endswith("_info") else shared.ARGUMENTS


@pytest.fixture(scope="module")
def documentation() -> dict[str, Any]:
    return json.loads(ansible("ansible-doc", "--json", *(f"longshore.fleet.{name}" for name in MODULES)))


def same(documented: dict[str, Any], specified: dict[str, Any], where: str) -> None:
    assert set(documented) == set(specified), where
    for name, option in specified.items():
        told = documented[name]
        for key, default in (
            ("type", "str"),
            ("required", False),
            ("default", None),
            ("choices", None),
            ("aliases", []),
            ("elements", None),
        ):
            assert told.get(key, default) == option.get(key, default), f"{where}.{name}: {key}"
        assert told["description"]
        if "options" in option:
            same(told["suboptions"], option["options"], f"{where}.{name}")


@pytest.mark.parametrize("module", MODULES)
def test_the_documentation_is_that_of_the_argument_spec(module: str, documentation: dict[str, Any]) -> None:
    entry = documentation[f"longshore.fleet.{module}"]
    same(entry["doc"]["options"], spec_of(module), module)
    assert entry["return"] and yaml.safe_load(entry["examples"])
    for attribute in ("check_mode", "diff_mode", "idempotent", "action_group", "platform"):
        assert attribute in entry["doc"]["attributes"], attribute


def test_every_module_has_an_action_plugin_and_is_in_the_group() -> None:
    assert sorted(path.stem for path in (ROOT / "plugins/action").glob("*.py")) == MODULES
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
    assert runtime["action_groups"]["longshore"] == MODULES
    for module in MODULES:
        action = importlib.import_module(f"{PREFIX}.action.{module}").ActionModule
        assert f"longshore.fleet.{module}" == action.MODULE
        assert spec_of(module) == action.ARGUMENTS


@pytest.mark.parametrize("kind", ["inventory", "filter"])
def test_other_plugins_are_documented(kind: str) -> None:
    for path in (ROOT / "plugins" / kind).glob("*.py"):
        found = json.loads(ansible("ansible-doc", "-t", kind, "--json", f"longshore.fleet.{path.stem}"))
        assert found[f"longshore.fleet.{path.stem}"]["doc"]["short_description"]


def test_shared_utilities_are_private() -> None:
    for folder in ("module_utils", "plugin_utils"):
        assert [
            path.name for path in (ROOT / "plugins" / folder).glob("*.py") if not path.name.startswith("_")
        ] == []


@pytest.mark.parametrize("playbook", sorted(path.name for path in (ROOT / "playbooks").glob("*.yml")))
def test_playbooks_parse(playbook: str) -> None:
    ansible("ansible-playbook", "--syntax-check", "-i", "inventories/static", f"playbooks/{playbook}")


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir()))
def test_defaults_and_readme_of_a_role_are_those_of_its_argument_spec(role: str) -> None:
    folder = ROOT / "roles" / role
    options = yaml.safe_load((folder / "meta/argument_specs.yml").read_text())["argument_specs"]["main"][
        "options"
    ]
    defaults = yaml.safe_load((folder / "defaults/main.yml").read_text()) or {}
    assert {name: option["default"] for name, option in options.items() if "default" in option} == {
        name: value for name, value in defaults.items() if not options[name].get("required")
    }
    readme = (folder / "README.md").read_text()
    assert [name for name in options if f"`{name}`" not in readme] == []


def test_the_pymachine_inventory_groups_and_reaches_machines(tmp_path: Path) -> None:
    for name, driver, address in (
        ("web1", "local", "172.17.0.2"),
        ("db1", "generic", "192.0.2.7"),
        ("late", "local", "172.17.0.9"),
        ("url", "none", "192.0.2.8"),
    ):
        folder = tmp_path / "machines" / name
        folder.mkdir(parents=True)
        config = {
            "DriverName": driver,
            "Driver": {"IPAddress": address, "SSHUser": "root", "SSHPort": 22, "SSHKeyPath": "/k"},
        }
        (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "machines" / "late" / "create.journal").touch()
    source = tmp_path / "my.pymachine.yml"
    source.write_text(
        'plugin: longshore.fleet.pymachine\nstrict: true\ngroups: {web: inventory_hostname is match("web")}\n'
    )
    found = json.loads(
        ansible("ansible-inventory", "-i", str(source), "--list", PYMACHINE_STORAGE_PATH=str(tmp_path))
    )
    hosts = {group: entry["hosts"] for group, entry in found.items() if group != "_meta" and "hosts" in entry}
    assert hosts == {
        "machines": ["db1", "web1"],
        "driver_local": ["web1"],
        "driver_generic": ["db1"],
        "unfinished": ["late"],
        "web": ["web1"],
    }
    assert found["_meta"]["hostvars"]["web1"]["ansible_ssh_private_key_file"] == {"__ansible_unsafe": "/k"}


def test_the_local_inventory_describes_the_app(tmp_path: Path) -> None:
    folder = tmp_path / "machines" / "web1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"DriverName": "local", "Driver": {"IPAddress": "172.17.0.2"}})
    )
    found = json.loads(
        ansible(
            "ansible-inventory",
            "-i",
            "inventories/local",
            "--host",
            "web1",
            PYMACHINE_STORAGE_PATH=str(tmp_path),
        )
    )
    assert found["app_name"] and found["app_image"] and found["app_published_ports"]
