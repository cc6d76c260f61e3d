"""The store: names, atomic files, locks between processes, what a crash leaves."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pymachine import record
from pymachine.errors import Busy, InvalidInput, NotFound, StoreError
from pymachine.files import write_atomic
from pymachine.names import parse_name
from pymachine.record import EngineOptions, MachineRecord
from pymachine.store import Store


@pytest.mark.parametrize("name", ["web1", "a", "Web-1.example", "1", "a" * 63])
def test_good_names_pass(name: str) -> None:
    assert parse_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "-a",
        "a-",
        ".a",
        "a..b",
        "a b",
        "a\n",
        "a_b",
        "ü",
        "a" * 64,
        "a;b",
        "a\0",
    ],
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        parse_name(name)


def test_a_machine_comes_back_as_it_was_saved(store: Store) -> None:
    engine = EngineOptions(install=False, port=9, bundle="/b", cache="/c", options=("a=1",), labels=("l=2",),
                           insecure_registries=("r",), registry_mirrors=("m",), sans=("s",))  # fmt: skip
    saved = MachineRecord("web1", "generic", {"IPAddress": "10.0.0.1", "SSHPort": 22}, engine, "2026-01-01")
    store.save(saved)
    loaded = store.load("web1")
    assert loaded.engine == engine
    assert (loaded.name, loaded.driver_name, loaded.created) == ("web1", "generic", "2026-01-01")
    assert loaded.driver["IPAddress"] == "10.0.0.1"
    assert stat.S_IMODE(store.files("web1").config.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.files("web1").folder.stat().st_mode) == 0o700


def test_the_config_has_docker_machines_layout(store: Store) -> None:
    store.save(MachineRecord("web1", "generic", {"IPAddress": "10.0.0.1"}))
    value = json.loads((store.root / "machines/web1/config.json").read_text())
    assert value["ConfigVersion"] == 3
    assert value["Name"] == value["Driver"]["MachineName"] == "web1"
    assert value["HostOptions"]["AuthOptions"]["ServerCertPath"] == str(
        store.root / "machines/web1/server.pem"
    )


def test_unknown_machine(store: Store) -> None:
    with pytest.raises(NotFound, match="'web1' does not exist"):
        store.load("web1")
    assert store.names() == []
    assert not store.root.exists()  # asking makes nothing


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"ConfigVersion": 99}', "99 is not understood"),
        ('{"ConfigVersion": 3, "DriverName": 4, "Name": "web1"}', "DriverName is not a text"),
        (
            '{"ConfigVersion": 3, "Name": "web1", "DriverName": "x", "Driver": []}',
            "Driver is not a JSON object",
        ),
    ],
)
def test_a_broken_config_is_told_with_its_path(store: Store, text: str, words: str) -> None:
    store.save(MachineRecord("web1", "none"))
    store.files("web1").config.write_text(text)
    with pytest.raises(StoreError) as caught:
        store.load("web1")
    assert words in str(caught.value)
    assert str(store.files("web1").config) in str(caught.value)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_keys_are_private_whatever_the_umask_and_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        write_atomic(path, b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


_WRITER = """
import sys
from pathlib import Path
from pymachine.files import write_atomic
value = 0
print("ready", flush=True)
while True:
    value += 1
    write_atomic(Path(sys.argv[1]), f"{value}:" + "x" * 200_000 + f":{value}")
"""


def test_a_killed_writer_leaves_old_or_new_never_a_part(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for attempt in range(8):
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        first, middle, last = path.read_text().split(":")
        assert first == last
        assert len(middle) == 200_000


def test_what_a_killed_writer_left_goes_with_the_next_lock(store: Store) -> None:
    store.save(MachineRecord("web1", "none"))
    leftover = store.files("web1").folder / ".config.json.4711.tmp"
    leftover.write_text("half")
    with store.lock("web1", "test"):
        assert not leftover.exists()


def test_the_lock_keeps_others_out_and_says_who_has_it(store: Store) -> None:
    with (
        store.lock("web1", "create"),
        pytest.raises(Busy, match=f"pid {os.getpid()}, create"),
        Store(store.root).lock("web1", "rm", timeout=0.2),
    ):
        pass
    with store.lock("web1", "rm", timeout=0):
        pass
    with store.lock("web2", "rm", timeout=0), store.lock("web1", "rm", timeout=0):
        pass  # machines do not wait for each other
    assert list((store.root / "locks").iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(store: Store) -> None:
    script = "import sys, os, pathlib\nfrom pymachine.store import Store\n" \
             "with Store(pathlib.Path(sys.argv[1])).lock('web1', 'create'): os.kill(os.getpid(), 9)"  # fmt: skip
    subprocess.run([sys.executable, "-c", script, str(store.root)], check=False)
    assert (store.root / "locks/web1").exists()
    with store.lock("web1", "rm", timeout=0):
        pass


_COUNTER = """
import sys, time
from pathlib import Path
from pymachine.store import Store
store = Store(Path(sys.argv[1]))
for _ in range(5):
    with store.lock("web1", "count", timeout=30):
        path = store.root / "counter"
        value = int(path.read_text())
        time.sleep(0.0005)
        path.write_text(str(value + 1))
"""


def test_the_lock_excludes_although_its_file_comes_and_goes(store: Store) -> None:
    store.root.mkdir()
    (store.root / "counter").write_text("0")
    workers = [subprocess.Popen([sys.executable, "-c", _COUNTER, str(store.root)]) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert (store.root / "counter").read_text() == "15"


def test_delete_is_at_once_and_cleans_up_after_a_killed_one(store: Store) -> None:
    store.save(MachineRecord("web1", "none"))
    trash = store.root / "machines/.trash-web1-0000"
    trash.mkdir()
    assert store.names() == ["web1"]
    store.delete("web1")
    store.delete("web1")
    assert list((store.root / "machines").iterdir()) == []


def test_a_moved_store_is_still_whole(store: Store, tmp_path: Path) -> None:
    store.save(
        MachineRecord("web1", "generic", {"IPAddress": "h", "SSHKeyPath": str(store.files("web1").key)})
    )
    store.root.rename(tmp_path / "elsewhere")
    moved = Store(tmp_path / "elsewhere")
    value = record.encode(moved.load("web1"), moved.root)
    assert value["HostOptions"]["AuthOptions"]["StorePath"] == str(moved.files("web1").folder)
