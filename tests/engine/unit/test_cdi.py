"""Devices by CDI files."""

import json
from pathlib import Path
from typing import Any

import pytest

from longshore.core import cdi
from longshore.core.model import DeviceRequest
from longshore.errors import InvalidArgument

FILE: dict[str, Any] = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.com/class",
    "containerEdits": {"env": ["COMMON=1"], "hooks": [{"hookName": "createContainer", "path": "/bin/hook"}]},
    "devices": [
        {
            "name": "one",
            "containerEdits": {
                "env": ["ONE=1"],
                "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/null", "permissions": "r", "uid": 5}],
                "mounts": [{"hostPath": "/usr", "containerPath": "/mnt/usr", "options": ["ro", "rbind"]}],
                "additionalGids": [44],
            },
        },
        {"name": "two", "containerEdits": {"env": ["TWO=1"]}},
    ],
}


def folder(path: Path, *files: Any, suffix: str = "json") -> Path:
    path.mkdir(exist_ok=True)
    for number, file in enumerate(files):
        (path / f"{number}.{suffix}").write_text(file if isinstance(file, str) else json.dumps(file))
    return path


def ask(*names: str) -> list[DeviceRequest]:
    return [DeviceRequest(driver="cdi", device_ids=list(names))]


def test_a_device_brings_its_edits_and_the_common_ones_once(tmp_path: Path) -> None:
    edits = cdi.requested(
        ask("vendor.com/class=one", "vendor.com/class=two"), [str(folder(tmp_path / "a", FILE))]
    )
    assert edits.env == ["ONE=1", "TWO=1", "COMMON=1"]
    ((node, access),) = edits.devices
    assert (node.path, node.type, node.major, node.minor, node.uid, access) == ("/dev/one", "c", 1, 3, 5, "r")
    assert [(mount.destination, mount.source, mount.options) for mount in edits.mounts] == [
        ("/mnt/usr", "/usr", ("ro", "rbind"))
    ]
    hooks = edits.hooks_value()
    assert hooks is not None and hooks.create_container[0].path == "/bin/hook"
    assert edits.gids == [44]


def test_yaml_and_the_later_folder_wins(tmp_path: Path) -> None:
    first = folder(tmp_path / "a", FILE)
    text = (
        "cdiVersion: '0.6.0'\nkind: vendor.com/class\n"
        "devices:\n- name: two\n  containerEdits: {env: [TWO=late]}\n"
    )
    second = folder(tmp_path / "b", text, suffix="yaml")
    edits = cdi.requested(ask("vendor.com/class=two"), [str(first), str(second)])
    assert edits.env == ["TWO=late"]


def test_unknown_double_and_broken_devices_are_named(tmp_path: Path) -> None:
    place = [str(folder(tmp_path / "a", FILE, FILE, "{", {**FILE, "cdiVersion": "9.0.0", "kind": "b.com/c"}))]
    with pytest.raises(InvalidArgument, match=r"unresolvable CDI devices vendor\.com/class=one") as caught:
        cdi.requested(ask("vendor.com/class=one"), place)
    assert "described twice" in str(caught.value)
    assert "CDI version '9.0.0' is not supported" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "vendor"},
        {"devices": [{"name": "a/b"}]},
        {"devices": [{"name": "a", "containerEdits": {"env": ["A"]}}]},
        {"devices": [{"name": "a", "containerEdits": {"deviceNodes": [{"path": "dev"}]}}]},
        {"devices": [{"name": "a", "containerEdits": {"deviceNodes": [{"path": "/d", "permissions": "x"}]}}]},
        {"devices": [{"name": "a", "containerEdits": {"hooks": [{"hookName": "later", "path": "/x"}]}}]},
        {"devices": [{"name": "a", "containerEdits": {"mounts": [{"hostPath": "", "containerPath": "/x"}]}}]},
        {"devices": [{"name": "a", "containerEdits": {"intelRdt": {"closID": "x"}}}]},
        {"devices": "many"},
    ],
)
def test_bad_files_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        cdi.parse_file(json.dumps({**FILE, **change}).encode())


def gpus(*names: str) -> dict[str, Any]:
    return {
        "cdiVersion": "0.6.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": name, "containerEdits": {"env": [f"GPU{name}=1"]}} for name in names],
    }


@pytest.mark.parametrize(
    ("request_", "env"),
    [
        (DeviceRequest(count=-1, capabilities=[["gpu"]]), ["GPUall=1"]),
        (DeviceRequest(count=1, capabilities=[["gpu"]]), ["GPU0=1"]),
        (DeviceRequest(driver="nvidia", device_ids=["1"], capabilities=[["gpu"]]), ["GPU1=1"]),
    ],
)
def test_gpus_are_cdi_devices(tmp_path: Path, request_: DeviceRequest, env: list[str]) -> None:
    place = [str(folder(tmp_path / "a", gpus("0", "1", "all")))]
    assert cdi.requested([request_], place).env == env


@pytest.mark.parametrize(
    "request_",
    [
        DeviceRequest(count=-1, capabilities=[["gpu"]]),
        DeviceRequest(driver="fpga", capabilities=[["gpu"]]),
        DeviceRequest(count=1),
    ],
)
def test_without_files_no_driver_is_there(request_: DeviceRequest) -> None:
    with pytest.raises(InvalidArgument, match="could not select device driver"):
        cdi.requested([request_], [])
