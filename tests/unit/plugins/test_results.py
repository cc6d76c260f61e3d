# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the modules send and what they make of the engine's answer."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.longshore.fleet.plugins.inventory.pymachine import host_variables, read_machine
from ansible_collections.longshore.fleet.plugins.module_utils._container import (
    ARGUMENTS,
    apply_result,
    wanted_container,
)
from ansible_collections.longshore.fleet.plugins.module_utils._engine import Client, EngineError
from ansible_collections.longshore.fleet.plugins.module_utils._image import full_name
from ansible_collections.longshore.fleet.plugins.plugin_utils._ship import INLINE_LIMIT, inspect_parcel, ship


def parameters(**given: Any) -> dict[str, Any]:
    defaults = {name: option.get("default") for name, option in ARGUMENTS.items()}
    return {**defaults, "name": "web", **given}


def test_only_opinions_are_sent() -> None:
    wanted = wanted_container(
        parameters(image="app:1", published_ports=["80:80"], healthcheck={"test": "true", "retries": None})
    )
    assert wanted["ports"] == ["80:80"] and wanted["healthcheck"] == {"test": "true"}
    assert "socket" not in wanted and "memory" not in wanted and wanted["state"] == "started"


def test_healthy_is_started_and_waits() -> None:
    wanted = wanted_container(parameters(state="healthy", wait=False))
    assert (wanted["state"], wanted["wait"]) == ("started", True)


def test_every_option_is_one_that_apply_takes() -> None:
    msgspec = pytest.importorskip("msgspec")
    request = pytest.importorskip("longshore.apply.request")
    samples = {
        "str": "1",
        "bool": True,
        "int": 1,
        "float": 1.0,
        "dict": {},
        "list": [],
        "raw": "x",
        "path": "/x",
    }
    values = {name: samples[option["type"]] for name, option in ARGUMENTS.items()}
    values.update(state="started", pull="never", recreate="auto", order="auto", restart_policy="always")
    msgspec.convert(wanted_container(values), request.WantedContainer)


PLAN = {
    "type": "plan",
    "steps": [
        {"kind": "container", "name": "web", "action": "replace", "reason": "Env changed", "diff": {"before": {"Env": {"A": "1"}}, "after": {"Env": {"A": "2"}}}},
        {"kind": "container", "name": "db", "action": "keep", "reason": "", "diff": {"before": {}, "after": {}}},
    ],
}  # fmt: skip


def test_result_of_an_apply() -> None:
    final = {"type": "result", "changed": True, "containers": {"web": {"Id": "1"}}, "failed": None}
    result = apply_result([PLAN, {"type": "step", "index": 0, "status": "done"}, final], "web", diff=True)
    assert result["changed"] and result["exists"] and result["container"] == {"Id": "1"}
    assert [action["action"] for action in result["actions"]] == ["replace"]
    assert result["diff"]["before"] == {"container web": {"Env": {"A": "1"}}}
    assert result["diff"]["after"] == {"container web": {"action": "replace", "Env": {"A": "2"}}}
    assert "failed" not in result


def test_a_failed_step_fails_the_task() -> None:
    """And tells of nothing that was not done."""
    final = {"type": "result", "changed": False, "containers": {}, "failed": {"message": "no space"}}
    steps = [{"type": "step", "index": 0, "status": status} for status in ("running", "failed")]
    result = apply_result([PLAN, *steps, final], "web", diff=True)
    assert result["failed"] and result["msg"] == "no space" and not result["exists"]
    assert not result["changed"] and result["actions"] == []
    assert result["diff"] == {"before": {}, "after": {}}


def test_an_answer_without_result_is_no_success() -> None:
    with pytest.raises(EngineError, match="did not finish"):
        apply_result([PLAN], "web", diff=False)
    with pytest.raises(EngineError, match="boom"):
        apply_result([PLAN, {"type": "error", "message": "boom"}], "web", diff=False)


@pytest.mark.parametrize(
    ("name", "tag", "full"),
    [
        ("app", None, "app:latest"),
        ("app", "2", "app:2"),
        ("app:1", "2", "app:1"),
        ("host:5000/app", None, "host:5000/app:latest"),
        ("sha256:ab", None, "sha256:ab"),
        ("app@sha256:ab", None, "app@sha256:ab"),
    ],
)
def test_image_names(name: str, tag: str | None, full: str) -> None:
    assert full_name(name, tag) == full


class FakeEngine:
    """Blobs and images in memory, behind the API that shipping uses."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []

    def add(self, name: str, *layers: bytes) -> None:
        parts = [self.put(layer) for layer in layers]
        config = self.put(json.dumps([part["digest"] for part in parts]).encode())
        manifest = self.put(b"manifest of " + config["digest"].encode())
        self.images[name] = {"id": config["digest"], "config": config, "layers": parts, "manifest": manifest}

    def put(self, data: bytes) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"digest": digest, "size": len(data)}

    def client(self) -> Client:
        return Client(self._exchange)

    def _exchange(self, data: bytes, body_file: str | None) -> bytes:
        replies = b""
        while data:
            head, _, data = data.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            method, path, _ = lines[0].split(" ")
            length = next(
                (int(line.split(": ")[1]) for line in lines if line.startswith("Content-Length")), 0
            )
            body, data = data[:length], data[length:]
            self.requests.append(f"{method} {path}")
            status, reply = self._answer(method, path, Path(body_file).read_bytes() if body_file else body)
            text = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            replies += f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text
        return replies

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/longshore/v1/blobs/missing":
            return 200, {
                "missing": [digest for digest in json.loads(body)["digests"] if digest not in self.blobs]
            }
        if path.startswith("/longshore/v1/blobs/"):
            assert "sha256:" + hashlib.sha256(body).hexdigest() == path.rpartition("/")[2]
            self.put(body)
            return 201, {}
        name = (
            path.removeprefix("/longshore/v1")
            .removeprefix("/images/")
            .removesuffix("/json")
            .removesuffix("/contents")
        )
        if method == "PUT":
            contents = json.loads(body)
            assert {part["digest"] for part in [*contents["layers"], contents["config"]]} <= set(self.blobs)
            self.images[name] = contents
            return 201, {"id": contents["id"]}
        if name not in self.images:
            return 404, {"message": f"No such image: {name}"}
        found = self.images[name]
        return 200, found if path.endswith("/contents") else {"Id": found["id"]}


def carry(source: FakeEngine, target: FakeEngine, name: str) -> tuple[Any, list[str]]:
    parcel = inspect_parcel(source.client(), target.client(), name)
    uploads: list[str] = []

    @contextmanager
    def upload(path: str):
        uploads.append(path)
        yield path

    def download(digest: str, sink: Any) -> None:
        sink.write(source.blobs[digest])

    if not parcel.same:
        ship(download, target.client(), name, parcel, upload)
    return parcel, uploads


def test_only_missing_blobs_travel_and_twice_is_nothing() -> None:
    source, target = FakeEngine(), FakeEngine()
    base = b"b" * (INLINE_LIMIT + 1)
    source.add("app:1", base, b"one")
    parcel, uploads = carry(source, target, "app:1")
    assert len(parcel.missing) == 4 and len(uploads) == 1  # the large one by the connection's file transfer
    source.add("app:2", base, b"two")
    parcel, uploads = carry(source, target, "app:2")
    assert (len(parcel.missing), len(parcel.present), uploads) == (3, 1, [])
    assert parcel.size < 1000
    target.requests.clear()
    parcel, _ = carry(source, target, "app:2")
    assert parcel.same
    assert target.requests == ["GET /images/app:2/json", "POST /longshore/v1/blobs/missing"]
    assert target.images["app:2"]["id"] == source.images["app:2"]["id"]


def test_a_tag_that_moved_is_shipped_again() -> None:
    source, target = FakeEngine(), FakeEngine()
    source.add("app:latest", b"one")
    carry(source, target, "app:latest")
    source.add("app:latest", b"one", b"two")
    parcel, _ = carry(source, target, "app:latest")
    assert not parcel.same and target.images["app:latest"]["id"] == source.images["app:latest"]["id"]


def test_an_image_the_controller_does_not_have() -> None:
    with pytest.raises(EngineError, match="No such image: app:1 on the controller"):
        carry(FakeEngine(), FakeEngine(), "app:1")


def machine(folder: Path, **driver: Any) -> Path:
    folder.mkdir(parents=True)
    config = {"ConfigVersion": 3, "DriverName": "local", "Name": folder.name, "Driver": driver}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_machine_is_reached_with_its_key_and_its_pinned_host_key(tmp_path: Path) -> None:
    folder = machine(tmp_path / "my store" / "web1", IPAddress="172.17.0.2", SSHUser="root", SSHPort=22)
    (folder / "id_ed25519").touch()
    config = read_machine(folder)
    assert config is not None
    variables = host_variables("web1", folder, config)
    assert variables is not None
    assert variables["ansible_host"] == "172.17.0.2" and variables["ansible_port"] == 22
    assert variables["ansible_ssh_private_key_file"] == str(folder / "id_ed25519")
    options = variables["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in options and "HostKeyAlias=web1" in options
    assert f"'UserKnownHostsFile=\"{folder}/known_hosts\"'" in options


def test_machines_without_address_and_broken_ones(tmp_path: Path) -> None:
    folder = machine(tmp_path / "half", IPAddress="")
    assert host_variables("half", folder, read_machine(folder) or {}) is None
    (tmp_path / "empty").mkdir()
    assert read_machine(tmp_path / "empty") is None
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"half/config\.json"):
        read_machine(folder)
