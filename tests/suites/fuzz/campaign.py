"""At least 20,000 requests that schemathesis makes of the API's description, against a private daemon.

    python -m tests.suites.fuzz.campaign [--requests N] [--seed N] [--report FILE]

Every answer below 500 is fine, as are 501 and 503; and the 500s that Docker's API documents, when the text says that
the machine or the kernel refused something. Anything else, a traceback in the daemon's log, an answer that is not
HTTP, a daemon that dies, and mounts, cgroups, processes, links or files left at the end make the campaign fail.
"""

import argparse
import collections
import json
import os
import random
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import hypothesis
import requests
import schemathesis
from schemathesis.generation import GenerationMode
from tests.engine import conftest
from tests.suites.fuzz.description import describe

FINE = {501, 503}
# A start that fails is a 500 in Docker's API as well: the words say that the container's own wishes were the reason.
DOCUMENTED = (
    "failed to create task for container",
    "port is already allocated",
    "driver failed programming external connectivity",
    "error setting ",
    "OCI runtime exec failed",
)
HEAVY = {"POST /containers/create": 30.0, "POST /containers/{id}/update": 6.0, "POST /containers/{id}/exec": 3.0,
         "POST /volumes/create": 2.0, "POST /networks/create": 3.0, "POST /containers/{id}/start": 3.0}  # fmt: skip
STREAM_SECONDS = 0.3


@dataclass
class Report:
    seed: int
    sent: int = 0
    by_status: collections.Counter[int] = field(default_factory=collections.Counter)
    by_operation: collections.Counter[str] = field(default_factory=collections.Counter)
    findings: dict[str, str] = field(
        default_factory=dict
    )  # what is wrong, once per kind: how to see it again

    def add(self, kind: str, request: str) -> None:
        self.findings.setdefault(kind, request[:2000])


class UnixConnection(HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Campaign:
    def __init__(self, daemon: Any, report: Report) -> None:
        self.daemon, self.report = daemon, report
        self.pool = ["fuzz-running", "fuzz-stopped"]
        self.random = random.Random(report.seed)

    def prepare(self) -> None:
        """The objects that requests name. Twice is fine: what was removed meanwhile comes again."""
        daemon = self.daemon
        if daemon.request("GET", "/images/busybox/json")[0] != 200:
            daemon.load()
        for name in self.pool:
            body = {"Image": "busybox", "Cmd": ["sleep", "3600"], "HostConfig": {"IpcMode": "shareable"}}
            daemon.request("POST", f"/containers/create?name={name}", body)
        daemon.request("POST", "/containers/fuzz-running/unpause")
        daemon.request("POST", "/containers/fuzz-running/start")
        daemon.request("POST", "/networks/create", {"Name": "fuzznet"})
        daemon.request("POST", "/volumes/create", {"Name": "fuzzvol"})

    def sweep(self) -> None:
        """Remove what requests made, so that a long campaign stays as fast as a short one."""
        daemon = self.daemon
        for container in daemon.request("GET", "/containers/json?all=1")[1]:
            if container["Names"][0].lstrip("/") not in self.pool:
                daemon.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        for network in daemon.request("GET", "/networks")[1]:
            if network["Name"] not in ("bridge", "host", "none", "fuzznet"):
                daemon.request("DELETE", f"/networks/{network['Id']}")
        for image in daemon.request("GET", "/images/json?all=1")[1]:
            if "busybox:latest" not in (image["RepoTags"] or ()):
                daemon.request("DELETE", f"/images/{image['Id']}?force=1")
        for volume in daemon.request("GET", "/volumes")[1]["Volumes"] or ():
            if volume["Name"] != "fuzzvol":
                daemon.request("DELETE", f"/volumes/{volume['Name']}")
        self.prepare()

    def _thin(self, body: dict[str, Any], *, create: bool) -> dict[str, Any]:
        """Mostly two or three fields of each part: with eighty random ones no request gets past the first check."""
        if self.random.random() < 0.2:
            return body
        some = {name: body[name] for name in self.random.sample(sorted(body), min(len(body), 3))}
        host = body.get("HostConfig")
        if isinstance(host, dict):
            names = self.random.sample(sorted(host), min(len(host), self.random.choice((1, 1, 2, 3))))
            some["HostConfig"] = {name: host[name] for name in names}
        if create:
            some |= {"Image": "busybox"} | ({"Cmd": ["sleep", "0.1"]} if self.random.random() < 0.7 else {})
        return some

    def send(self, operation: str, prepared: requests.PreparedRequest) -> None:
        """One request; what it made is started, looked at and removed by requests of their own."""
        text = self._send(operation, prepared.method or "GET", *_wire(prepared))
        if operation == "POST /containers/create" and text is not None and b'"Id"' in text:
            path = f"/containers/{json.loads(text)['Id']}"
            self._send("POST /containers/{id}/start", "POST", f"{path}/start", b"", {})
            self._send("GET /containers/{id}/json", "GET", f"{path}/json", b"", {})
            self._send("DELETE /containers/{id}", "DELETE", f"{path}?force=1&v=1", b"", {})

    def _send(
        self, operation: str, method: str, url: str, body: bytes, headers: dict[str, str]
    ) -> bytes | None:
        report = self.report
        shown = f"{method} {url} {body[:1500]!r}"
        report.sent += 1
        report.by_operation[operation] += 1
        connection = UnixConnection(self.daemon.socket, 30.0)
        try:
            connection.request(method, url, body or None, headers)
            response = connection.getresponse()
            report.by_status[response.status] += 1
            text = self._text(connection, response)
        except (HTTPException, OSError) as error:
            report.add(f"{operation}: {type(error).__name__}: {error}", shown)
            if self.daemon.process.poll() is not None:
                report.add(f"the daemon ended with {self.daemon.process.poll()}", shown)
                self.daemon.start()
            return None
        finally:
            connection.close()
        if response.status >= 400:
            self._judge(operation, response.status, text, shown, head=method == "HEAD")
        return text

    def _text(self, connection: UnixConnection, response: Any) -> bytes:
        """The body, or what of a stream comes within a moment."""
        if response.status == 101 or connection.sock is None:
            return b""
        if response.status < 400:
            connection.sock.settimeout(STREAM_SECONDS)
        try:
            return response.read(1 << 20)
        except (TimeoutError, HTTPException):
            return b""

    def _judge(self, operation: str, status: int, text: bytes, shown: str, *, head: bool) -> None:
        try:
            message = "" if head else json.loads(text)["message"]
        except (ValueError, KeyError, TypeError):
            self.report.add(f"{operation}: {status} without a message: {text[:200]!r}", shown)
            return
        if status < 500 or status in FINE or any(words in message for words in DOCUMENTED):
            return
        kind = message[:90]
        self.report.add(f"{operation}: {status} {kind}", shown)

    def run(self, total: int, seed: int) -> None:
        self.prepare()
        known = {
            "containers": self.pool,
            "exec": ["absent"],
            "images": ["busybox", "busybox:latest"],
            "volumes": ["fuzzvol"],
            "networks": ["bridge", "fuzznet", "none"],
        }
        document = describe(known, str(self.daemon.folder))
        schema = schemathesis.openapi.from_dict(document)
        operations = [found.ok() for found in schema.get_all_operations()]
        weights = [HEAVY.get(_name(operation), 1.0) for operation in operations]
        order = list(zip(operations, weights, strict=True))
        random.Random(seed).shuffle(order)
        for operation, weight in order:
            count = max(20, round(total * weight / sum(weights)))
            for mode, share in ((GenerationMode.POSITIVE, 0.6), (GenerationMode.NEGATIVE, 0.4)):
                self._run_operation(operation, mode, round(count * share + 0.5), seed)
            print(
                f"{self.report.sent:6} {_name(operation)}: {len(self.report.findings)} findings", flush=True
            )
        while self.report.sent < total:  # some operations have fewer different requests than were asked for
            before = self.report.sent
            seed += 1
            create = next(each for each in operations if _name(each) == "POST /containers/create")
            self._run_operation(create, GenerationMode.POSITIVE, min(2000, total - before), seed)

    def _run_operation(self, operation: Any, mode: GenerationMode, count: int, seed: int) -> None:
        name = _name(operation)
        try:
            strategy = operation.as_strategy(generation_mode=mode)
        except Exception:  # nothing to negate: no parameters, no body
            return
        done = [0]

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(strategy)
        def one(case: Any) -> None:
            if done[0] % 200 == 199:
                self.sweep()
            done[0] += 1
            words = case.as_transport_kwargs(base_url="http://localhost")
            for key in ("timeout", "verify", "cert", "proxies", "allow_redirects"):
                words.pop(key, None)
            if mode is GenerationMode.POSITIVE and isinstance(words.get("json"), dict):
                words["json"] = self._thin(words["json"], create="create" in name and "containers" in name)
            try:
                prepared = requests.Request(**words).prepare()
            except Exception:  # not even HTTP
                return
            self.send(name, prepared)

        try:
            one()
        except hypothesis.errors.Unsatisfiable:
            pass
        self.sweep()


def _wire(prepared: requests.PreparedRequest) -> tuple[str, bytes, dict[str, str]]:
    body = prepared.body if isinstance(prepared.body, bytes) else (prepared.body or "").encode()
    headers = {name: value for name, value in prepared.headers.items() if name.lower() != "content-length"}
    return prepared.path_url, body, headers


def _name(operation: Any) -> str:
    return f"{operation.method.upper()} {operation.path}"


def tracebacks(log: Path) -> Iterator[str]:
    """The last lines of every traceback in the log, and what asyncio complains about."""
    lines = log.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("Traceback"):
            after = [each for each in lines[number + 1 : number + 80] if each and not each.startswith(" ")]
            yield after[0] if after else line
        elif "exception was never retrieved" in line or "defect in" in line:
            yield line


def text_of(report: Report, seconds: float) -> str:
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(report.by_status.items()))
    lines = [
        f"{report.sent} requests in {seconds:.0f} s, seed {report.seed}, {len(report.by_operation)} operations",
        f"answers: {statuses}",
        f"findings: {len(report.findings)}",
    ]
    for kind, request in report.findings.items():
        lines += [f"- {kind}", f"    {request}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=Path("build/fuzz-report.txt"))
    given = parser.parse_args()
    conftest.need_root()
    state = conftest.load_helper("machine_state")
    os.environ[state.MARK] = mark = f"{os.getpid()}-fuzz"
    before = state.of_machine(mark)
    top = set(Path("/").iterdir())
    daemon = conftest.DaemonUnderTest(9)
    report = Report(given.seed)
    started = time.monotonic()
    log = Path("build/fuzz-daemon.log")
    try:
        for name in ("a", "b"):
            (daemon.folder / "binds" / name).mkdir(parents=True)
        daemon.start()
        Campaign(daemon, report).run(given.requests, given.seed)
        if daemon.process is None or daemon.process.poll() is not None:
            report.add("the daemon is not there at the end", "")
    finally:
        shutil.copy(daemon.log, log)
        daemon.clean()
    for line, count in collections.Counter(tracebacks(log)).items():
        report.add(f"in the log, {count} times: {line[:300]}", f"see {log}")
    left = state.lasting(lambda: state.changes(before, state.of_machine(mark)))
    if left:
        report.add(f"left on the machine: {json.dumps(left)[:1500]}", "")
    if new := set(Path("/").iterdir()) - top:
        report.add(f"left in the root directory: {sorted(map(str, new))}", "")
    text = text_of(report, time.monotonic() - started)
    given.report.parent.mkdir(exist_ok=True)
    given.report.write_text(text)
    print(text)
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
