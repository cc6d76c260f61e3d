"""Attack 19 on a running daemon: output without an end (CVE-2022-31030), requests without an end.

Memory of the daemon and of the monitors is looked at; the logs on disk stay within their limit.
"""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attack_lab import run, until
from runtime_lab import needs_root

from longshore.runtime import records

pytestmark = needs_root

MB = 1 << 20
MOST = 64 * MB
"""More than this no attack may add to a process of ours: each of them could send gigabytes."""


@pytest.fixture
def api(daemon: Any) -> Iterator[Any]:
    yield daemon.client.api
    daemon.remove_containers()


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def processes(daemon: Any, *ids: str) -> list[int]:
    """The daemon and the monitors of these containers."""
    states = [records.read_state(str(daemon.run / "containers" / id)) for id in ids]
    return [daemon.process.pid, *(state.pid for state in states if state)]


def growth(before: dict[int, int]) -> int:
    return max(peak(pid) - memory for pid, memory in before.items())


def test_attack_19_an_exec_that_nobody_reads(daemon: Any, api: Any) -> None:
    """`yes` to a client that stops reading: the program has to wait, not we to keep. Fails without back-pressure."""
    id = run(api, "sleep 1000")
    before = {pid: peak(pid) for pid in processes(daemon, id)}
    sockets = []
    for tty in (False, True):
        exec_id = api.exec_create(id, ["sh", "-c", "exec yes $(printf %1000s)"], tty=tty)["Id"]
        client = socket.socket(socket.AF_UNIX)
        client.connect(daemon.socket)
        body = json.dumps({"Detach": False, "Tty": tty}).encode()
        client.sendall(
            b"POST /exec/%s/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: Upgrade\r\n"
            b"Upgrade: tcp\r\nContent-Length: %d\r\n\r\n%s" % (exec_id.encode(), len(body), body)
        )
        assert client.recv(100).startswith(b"HTTP/1.1 101")
        sockets.append((client, exec_id))
    try:
        for _client, exec_id in sockets:
            until(lambda exec_id=exec_id: api.exec_inspect(exec_id)["Pid"])
            io = Path(f"/proc/{api.exec_inspect(exec_id)['Pid']}/io")
            seen: list[str] = []

            def stands_still(io: Path = io, seen: list[str] = seen) -> bool:
                seen.append(io.read_text())
                return len(seen) > 10 and len(set(seen[-10:])) == 1

            until(stands_still)
    finally:
        for client, _ in sockets:
            client.close()
    assert growth(before) < MOST


def test_attack_19_a_log_line_without_an_end(daemon: Any, api: Any) -> None:
    """100 MB without a line end, with 2 MB of log allowed. Fails when lines are collected, or files not rotated."""
    options = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    id = run(
        api,
        "sleep 0.3; head -c 100000000 /dev/zero | tr '\\0' x; touch /done; sleep 1000",
        log_config=options,
    )
    before = {pid: peak(pid) for pid in processes(daemon, id)}
    root = Path(f"/proc/{api.inspect_container(id)['State']['Pid']}/root")
    until((root / "done").exists, 60)
    assert growth(before) < MOST
    kept = sum(path.stat().st_size for path in (daemon.data / "containers" / id).glob("*-json.log*"))
    assert kept < 3 * MB
    assert len(api.logs(id, tail=1)) < 3 * MB


def test_attack_19_a_health_check_that_never_stops_talking(daemon: Any, api: Any) -> None:
    """Fails when the output is collected until the end: it is cut at 4 kB, as the API says."""
    check = {"test": ["CMD-SHELL", "exec yes endless"], "interval": 10**8, "timeout": 10**9, "retries": 1}
    id = run(api, "sleep 1000", healthcheck=check)
    before = {pid: peak(pid) for pid in processes(daemon, id)}
    until(lambda: api.inspect_container(id)["State"]["Health"]["Log"])
    result = api.inspect_container(id)["State"]["Health"]["Log"][0]
    assert result["ExitCode"] != 0 and len(result["Output"]) <= 4096
    assert growth(before) < MOST


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/containers/create", b'{"Image":"' + b"x" * (90 * MB) + b'"}'),
        ("/containers/create", b'{"Labels":' * 300_000),
        ("/containers/create", b"[" * MB),
        ("/build", b"\0" * (20 * MB)),
        ("/volumes/create", b'{"Name":' + b" " * (40 * MB)),
    ],
    ids=["long", "nested objects", "nested lists", "no archive", "blanks"],
)
def test_attack_19_requests_without_an_end(daemon: Any, path: str, body: bytes) -> None:
    """Refused with a 4xx, and the next request is answered. Fails when bodies are read whole, or parsed by recursion."""
    before = {daemon.process.pid: peak(daemon.process.pid)}
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(daemon.socket)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            client.sendall(head.encode() + body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # answered before it has read all
        try:
            answer = client.recv(4096)
        except ConnectionResetError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4") or b"errorDetail" in answer, answer[:300]
    assert daemon.answers()
    assert growth(before) < 3 * MOST
