"""Log drivers with real receivers: sockets that speak syslog, a journald of our own."""

import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
JOURNALD = Path("/lib/systemd/systemd-journald")


@pytest.fixture
def api(daemon: Any) -> Iterator[Any]:
    yield daemon.client.api
    daemon.remove_containers()


def run(api: Any, script: str, driver: str, *, name: str | None = None, **options: Any) -> str:
    """Create and start; options of the driver with `_` for `-`."""
    config = {key: options.pop(key) for key in ("environment", "labels") if key in options}
    chosen = {key.replace("_", "-"): value for key, value in options.items()}
    host = api.create_host_config(log_config={"Type": driver, "Config": chosen})
    id = api.create_container("busybox", ["sh", "-c", script], name=name, host_config=host, **config)["Id"]
    api.start(id)
    return str(id)


def until(check: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := check()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


def helpers() -> list[int]:
    """Processes that pass logs on, of this checkout's daemons."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = str(ROOT).encode() in (folder / "cmdline").read_bytes()
            if ours and (folder / "comm").read_text() == "longshore-log\n":
                found.append(int(folder.name))
    return found


class Receiver:
    """Listens like a syslog server and keeps what it gets."""

    def __init__(self, kind: str, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        family = socket.AF_UNIX if kind.startswith("unix") else socket.AF_INET
        self.stream = kind in ("tcp", "tcp+tls", "unix")
        self.tls = tls
        self.data = b""
        self.socket = socket.socket(family, socket.SOCK_STREAM if self.stream else socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        path = folder / "syslog.sock"
        self.socket.bind(str(path) if family == socket.AF_UNIX else ("127.0.0.1", 0))
        self.port = 0 if family == socket.AF_UNIX else self.socket.getsockname()[1]
        self.address = f"{kind}://{path if family == socket.AF_UNIX else f'127.0.0.1:{self.port}'}"
        self.connections: list[socket.socket] = []
        if self.stream:
            self.socket.listen()
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self) -> None:
        try:
            if not self.stream:
                while True:
                    self.data += self.socket.recv(1 << 16)
            while True:
                plain, _ = self.socket.accept()
                connection = self.tls.wrap_socket(plain, server_side=True) if self.tls else plain
                self.connections.append(connection)
                threading.Thread(target=self.receive, args=(connection,), daemon=True).start()
        except OSError:
            return

    def receive(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(1 << 16):
                self.data += data
        except OSError:
            return

    def close(self) -> None:
        for each in (*self.connections, self.socket):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.thread.join(10)


@pytest.mark.parametrize("kind", ["udp", "tcp", "unix", "unixgram"])
@pytest.mark.parametrize(
    ("format", "pattern"),
    [
        ("", rb"<%d>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d %s\[\d+\]: %s\n"),
        ("rfc3164", rb"<%d>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ %s\[\d+\]: %s\n"),
        ("rfc5424", rb"<%d>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d) \S+ %s \d+ \S+ - %s\n"),
        ("rfc5424micro", rb"<%d>1 \S+T\d\d:\d\d:\d\d\.\d{6}(?:Z|[+-]\d\d:\d\d) \S+ %s \d+ \S+ - %s\n"),
    ],
)
def test_syslog_over_every_transport(
    api: Any, tmp_path: Path, kind: str, format: str, pattern: bytes
) -> None:
    receiver = Receiver(kind, tmp_path)
    try:
        options = {"syslog_address": receiver.address, "tag": "app/{{.Name}}", "syslog_facility": "local3"}
        if format:
            options["syslog_format"] = format
        id = run(api, "echo one; echo two >&2", "syslog", name="speaker", **options)
        api.wait(id)
        until(lambda: receiver.data.count(b"\n") == 2)
        for severity, text in ((6, b"one"), (3, b"two")):  # info and err; facility local3 is 19
            assert re.search(pattern % (19 * 8 + severity, b"app/speaker", text), receiver.data), (
                receiver.data
            )
        # Reading works although syslog cannot be read: a copy is kept
        assert api.logs(id, stdout=True, stderr=False) == b"one\n"
        assert api.logs(id, stdout=False, stderr=True) == b"two\n"
    finally:
        receiver.close()


def certificate(folder: Path) -> ssl.SSLContext:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=receiver",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_syslog_over_tls_counts_and_verifies(api: Any, tmp_path: Path) -> None:
    receiver = Receiver("tcp+tls", tmp_path, certificate(tmp_path))
    try:
        trusted = {"syslog_address": receiver.address, "syslog_tls_ca_cert": str(tmp_path / "cert.pem")}
        api.wait(run(api, "echo secret", "syslog", syslog_format="rfc5424", **trusted))
        frame = until(lambda: re.fullmatch(rb"(\d+) (<30>1 .* - secret\n)", receiver.data))
        assert int(frame[1]) == len(frame[2])  # RFC 5425, 4.3
        with pytest.raises(
            Exception, match=r"failed to initialize logging driver.*CERTIFICATE_VERIFY_FAILED"
        ):
            run(api, "true", "syslog", syslog_address=receiver.address)
    finally:
        receiver.close()


def test_a_receiver_that_is_not_there_fails_the_start_and_leaves_nothing(daemon: Any, api: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Exception, match=r"failed to initialize logging driver.*Connection refused"):
            run(api, "true", "syslog", name="early", syslog_address=address)
    assert api.inspect_container("early")["State"]["Running"] is False
    until(lambda: not helpers())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_receiver_that_takes_nothing_stops_neither_engine_nor_exit(
    api: Any, tmp_path: Path, kind: str
) -> None:
    """Its helper hangs: mode blocking holds the container's output, but kill, exit record and the copy are there."""
    receiver = Receiver(kind, tmp_path)
    try:
        id = run(api, "while :; do echo 0123456789012345678901234567890123456789; done", "syslog",
                 syslog_address=receiver.address)  # fmt: skip
        until(lambda: receiver.data)
        os.kill(helpers()[0], signal.SIGSTOP)
        grown = -1
        while grown != (grown := (copy := api.inspect_container(id)) and log_size(api, id)):
            time.sleep(0.3)  # until the container waits
        assert copy["State"]["Running"]
        assert api.exec_start(api.exec_create(id, ["echo", "alive"])["Id"]) == b"alive\n"
        api.kill(id)
        assert api.wait(id, timeout=20)["StatusCode"] == 137
        assert api.logs(id, tail=1) == b"0123456789012345678901234567890123456789\n"
    finally:
        for pid in helpers():
            os.kill(pid, signal.SIGKILL)
        receiver.close()


def log_size(api: Any, id: str) -> int:
    return len(api.logs(id, tail=100000))


def test_non_blocking_drops_instead_of_waiting(api: Any, tmp_path: Path) -> None:
    receiver = Receiver("tcp", tmp_path)
    try:
        script = "read go; seq 1 2000000; echo done >/dev/null"
        host = api.create_host_config(
            log_config={
                "Type": "syslog",
                "Config": {
                    "syslog-address": receiver.address, "mode": "non-blocking", "max-buffer-size": "64k",
                    "cache-disabled": "true",
                },
            }
        )  # fmt: skip
        id = api.create_container(
            "busybox", ["sh", "-c", script], host_config=host, stdin_open=True, detach=False
        )["Id"]
        stdin = api.attach_socket(id, params={"stdin": 1, "stream": 1})
        api.start(id)
        (helper,) = until(helpers)
        os.kill(helper, signal.SIGSTOP)
        stdin._sock.sendall(b"go\n")
        assert api.wait(id, timeout=60)["StatusCode"] == 0  # 14 MB, nobody reads them
        os.kill(helper, signal.SIGCONT)
        until(lambda: not helpers())
        lines = until(lambda: receiver.data.endswith(b"\n") and receiver.data.splitlines())
        assert 0 < len(lines) < 2000000
        assert all(re.search(rb"\]: \d+$", line) for line in lines)
        with pytest.raises(Exception, match="does not support reading"):
            api.logs(id)
    finally:
        receiver.close()


def test_what_a_receiver_missed_is_told_when_it_is_back(api: Any, tmp_path: Path) -> None:
    receiver = Receiver("tcp", tmp_path)
    host = api.create_host_config(
        log_config={"Type": "syslog", "Config": {"syslog-address": receiver.address}}
    )
    id = api.create_container("busybox", ["cat"], host_config=host, stdin_open=True)["Id"]
    stdin = api.attach_socket(id, params={"stdin": 1, "stream": 1})._sock
    api.start(id)
    stdin.sendall(b"before\n")
    until(lambda: b"before" in receiver.data)
    port = receiver.port
    receiver.close()
    for number in range(3):
        stdin.sendall(b"lost %d\n" % number)
        until(lambda number=number: b"lost %d\n" % number in api.logs(id))
    back = socket.create_server(("127.0.0.1", port))
    back.settimeout(1)
    connection = None
    while connection is None:
        stdin.sendall(b"after\n")
        try:
            connection, _ = back.accept()
        except TimeoutError:
            continue
    connection.settimeout(30)
    data = b""
    while b"after" not in data:
        data += connection.recv(65536)
    assert re.search(rb"<28>.*: \d+ messages before this one were lost: the receiver was gone\n", data)
    connection.close()
    back.close()


def test_a_helper_that_dies_takes_neither_container_nor_copy(api: Any, tmp_path: Path) -> None:
    receiver = Receiver("udp", tmp_path)
    try:
        id = run(api, "while :; do echo tick; sleep 0.2; done", "syslog", syslog_address=receiver.address)
        until(lambda: b"tick" in receiver.data)
        os.kill(helpers()[0], signal.SIGKILL)
        count = len(api.logs(id))
        until(lambda: len(api.logs(id)) > count)
        receiver.data = b""
        until(lambda: b"tick" in receiver.data)  # another one was started
        api.kill(id)
        assert api.wait(id)["StatusCode"] == 137
    finally:
        receiver.close()


def test_local_writes_its_own_files_and_is_read(daemon: Any, api: Any) -> None:
    id = run(api, "seq 1 20000", "local", max_size="20k", max_file="3")
    api.wait(id)
    folder = daemon.data / "containers" / id / "local-logs"
    until(lambda: sorted(path.name for path in folder.iterdir())
          == ["container.log", "container.log.1.gz", "container.log.2.gz"])  # fmt: skip
    assert re.match(
        rb"\d{4}-\d\d-\d\dT[\d:.]{18}Z stdout F \d+\n",
        gzip.decompress((folder / "container.log.2.gz").read_bytes()),
    )
    numbers = [int(line) for line in api.logs(id).split()]
    assert numbers[-1] == 20000 and len(numbers) > 1000
    assert numbers == list(range(20001 - len(numbers), 20001))
    assert api.logs(id, tail=800).split() == [b"%d" % n for n in range(19201, 20001)]
    assert api.inspect_container(id)["LogPath"] == ""


def test_json_file_rotates_and_compresses_unless_told_otherwise(daemon: Any, api: Any) -> None:
    id = run(
        api,
        "i=0; while [ $i -lt 230 ]; do seq 100000 102500; i=$((i+1)); done",
        "json-file",
        max_size="5m",
        max_file="5",
    )
    api.wait(id)
    folder = daemon.data / "containers" / id
    names = until(lambda: compressed(folder, id))
    assert names == [f"{id}-json.log", *(f"{id}-json.log.{n}.gz" for n in range(1, 5))]
    for line in gzip.decompress((folder / names[-1]).read_bytes()).splitlines():
        assert json.loads(line)["stream"] == "stdout"
    assert api.logs(id, tail=1) == b"102500\n"
    assert api.inspect_container(id)["HostConfig"]["LogConfig"]["Config"] == {
        "max-size": "5m",
        "max-file": "5",
    }


def compressed(folder: Path, id: str) -> list[str]:
    names = sorted(path.name for path in folder.glob(f"{id}-json.log*"))
    return names if all(name.endswith((".log", ".gz")) for name in names) and len(names) == 5 else []


def test_details_show_what_the_options_chose(daemon: Any, api: Any) -> None:
    id = run(
        api, "echo hi", "json-file", name="detailed", labels_regex="^team", env="STAGE,NONE", tag="{{.Name}}/{{.ImageName}}",
        labels={"team": "a b", "other": "x"}, environment={"STAGE": "test", "SECRET": "s"},
    )  # fmt: skip
    api.wait(id)
    done = daemon.docker("logs", "--details", "detailed")
    assert done.out == "STAGE=test,tag=detailed%2Fbusybox,team=a+b hi\n"
    entry = json.loads(Path(api.inspect_container(id)["LogPath"]).read_text())
    assert entry["attrs"] == {"STAGE": "test", "tag": "detailed/busybox", "team": "a b"}


def test_a_file_can_be_non_blocking_too(daemon: Any, api: Any) -> None:
    id = run(api, "seq 1 1000", "json-file", mode="non-blocking", max_buffer_size="4m")
    api.wait(id)
    until(lambda: not helpers())
    assert api.logs(id).split() == [b"%d" % n for n in range(1, 1001)]


@pytest.mark.parametrize(
    ("driver", "options", "message"),
    [
        ("nosuch", {}, "logger: no log driver named 'nosuch' is registered"),
        ("syslog", {"nope": "1"}, "unknown log opt 'nope' for syslog log driver"),
        ("syslog", {"syslog-address": "here"}, "syslog-address should be in form proto://address, got here"),
        ("syslog", {"syslog-address": "unix:///no/such"}, "stat /no/such: no such file or directory"),
        ("syslog", {"syslog-facility": "x"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "x"}, "Invalid syslog format"),
        ("journald", {"max-size": "1"}, "unknown log opt 'max-size' for journald log driver"),
        ("local", {"tag": "x"}, "unknown log opt 'tag' for log driver local"),
        ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"compress": "true", "max-size": "1m"}, "compress cannot be true when max-file is less than 2"),
        ("json-file", {"mode": "x"}, "logger: logging mode not supported: x"),
        ("json-file", {"max-buffer-size": "1m"}, "max-buffer-size option is only supported with 'mode=non-blocking'"),
        ("json-file", {"tag": "{{.Nope}}"}, "invalid log opt tag"),
        ("json-file", {"labels-regex": "("}, "invalid log opt labels-regex"),
        ("syslog", {"cache-disabled": "x"}, "invalid value for option cache-disabled: x"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_at_create(api: Any, driver: str, options: Any, message: str) -> None:
    host = api.create_host_config(log_config={"Type": driver, "Config": options})
    with pytest.raises(Exception, match=re.escape(message)) as caught:
        api.create_container("busybox", ["true"], host_config=host)
    assert caught.value.response.status_code == 400


@pytest.fixture(scope="module")
def journal(module_daemon: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A daemon in a mount namespace of its own that has a journald, also of its own."""
    if not JOURNALD.exists() or not shutil.which("journalctl"):
        pytest.skip("no systemd-journald here")
    if not Path("/etc/machine-id").exists():
        pytest.skip("journald needs /etc/machine-id")
    folder = tmp_path_factory.mktemp("journal")
    script = folder / "with-journal"
    script.write_text(
        "#!/bin/sh\n"
        "mkdir -p /run/systemd /run/log\n"
        "mount -t tmpfs tmpfs /run/systemd && mount -t tmpfs tmpfs /run/log\n"
        "mkdir -p /run/systemd/journal /run/log/journal\n"
        f"{JOURNALD} >/dev/null 2>&1 & echo $! >{folder}/pid\n"
        'exec "$@"\n'
    )
    script.chmod(0o755)
    wrapped = os.environ.get("LONGSHORED", str(Path(sys.executable).parent / "longshored"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGSHORED", f"unshare -m --propagation slave {script} {wrapped}")
        module_daemon.start()
        module_daemon.load()
    yield module_daemon
    module_daemon.remove_containers()
    os.kill(int((folder / "pid").read_text()), signal.SIGTERM)


def in_journal(made: Any, *words: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["nsenter", f"--mount=/proc/{made.process.pid}/ns/mnt", "journalctl", "-q", "--all", "-o", "json", *words],
        capture_output=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_journald_gets_dockers_fields_and_is_read_back(journal: Any) -> None:
    api = journal.client.api
    until(lambda: in_journal(journal))
    id = run(
        api, "echo one; echo two >&2; printf end", "journald", name="keeper", tag="t-{{.Name}}", env="STAGE",
        environment={"STAGE": "test"}, labels={"team": "blue"},
    )  # fmt: skip
    api.wait(id)
    entries = until(lambda: len(found := in_journal(journal, f"CONTAINER_ID_FULL={id}")) == 3 and found)
    first = next(entry for entry in entries if entry["MESSAGE"] == "one")
    assert {key: first[key] for key in ("PRIORITY", "CONTAINER_ID", "CONTAINER_NAME", "CONTAINER_TAG",
                                        "SYSLOG_IDENTIFIER", "IMAGE_NAME", "STAGE")} == {
        "PRIORITY": "6", "CONTAINER_ID": id[:12], "CONTAINER_NAME": "keeper", "CONTAINER_TAG": "t-keeper",
        "SYSLOG_IDENTIFIER": "t-keeper", "IMAGE_NAME": "busybox", "STAGE": "test",
    }  # fmt: skip
    assert {entry["PRIORITY"] for entry in entries if entry["MESSAGE"] == "two"} == {"3"}
    assert api.logs(id, stdout=True, stderr=False) == b"one\nend\n"
    assert api.logs(id, tail=1) in (b"end\n", b"two\n")  # stdout and stderr have no common order
    assert journal.docker("logs", "--details", "keeper").out == "STAGE=test one\nSTAGE=test end\n"


def test_journald_takes_large_entries_and_parts(journal: Any) -> None:
    api = journal.client.api
    id = run(api, "head -c 100000 /dev/zero | tr '\\0' x; echo; echo short", "journald")
    api.wait(id)
    entries = until(lambda: len(found := in_journal(journal, f"CONTAINER_ID_FULL={id}")) == 8 and found)
    parts = [entry for entry in entries if "CONTAINER_PARTIAL_ID" in entry]
    assert [entry["CONTAINER_PARTIAL_ORDINAL"] for entry in parts] == [str(n) for n in range(1, 8)]
    assert [entry["CONTAINER_PARTIAL_LAST"] for entry in parts] == ["false"] * 6 + ["true"]
    assert [entry.get("CONTAINER_PARTIAL_MESSAGE") for entry in parts] == ["true"] * 6 + [None]
    assert api.logs(id) == b"x" * 100000 + b"\nshort\n"


def test_following_the_journal_ends_with_the_container(journal: Any) -> None:
    api = journal.client.api
    id = run(api, "for i in 1 2 3; do echo $i; sleep 0.3; done", "journald")
    assert b"".join(api.logs(id, stream=True, follow=True)) == b"1\n2\n3\n"


def test_all_logs_together_keep_to_the_budget(own_daemon: Any) -> None:
    """What is rotated goes first, then a container that writes begins a new file, and nobody loses what comes next."""
    own_daemon.flags = ("--log-budget", "1m")
    own_daemon.start()
    own_daemon.load()
    api = own_daemon.client.api
    try:
        many = {"max_size": "100k", "max_file": "20", "compress": "false"}
        old = run(api, "i=0; while [ $i -lt 8 ]; do seq 100000 101500; i=$((i+1)); done", "json-file", **many)
        api.wait(old)
        one = run(api, "i=0; while [ $i -lt 30 ]; do seq 100000 101000; i=$((i+1)); done; echo there; sleep 1000", "json-file",
                  max_size="-1")  # fmt: skip
        until(lambda: api.logs(one, tail=1) == b"there\n")
        assert size_of_logs(own_daemon) > 2_000_000
        own_daemon.restart()
        until(lambda: size_of_logs(own_daemon) <= 1 << 20, 60)
        until(lambda: not list((own_daemon.data / "containers" / old).glob("*.log.*")))
        assert api.logs(old, tail=1) == b"101500\n"
    finally:
        own_daemon.remove_containers()


def size_of_logs(daemon: Any) -> int:
    return sum(path.stat().st_size for path in (daemon.data / "containers").glob("*/*-json.log*"))
