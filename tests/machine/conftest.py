"""Fixtures: a store, the command line in a process of its own, and a real sshd on a high port."""

import contextlib
import io
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pymachine.keys import make_key_pair, parse_host_keys
from pymachine.main import main
from pymachine.store import Store

SSHD = Path("/usr/sbin/sshd")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@dataclass(frozen=True)
class Output:
    code: int
    out: str
    err: str


Cli = Callable[..., Output]


_EXECS = ("ssh", "scp")  # these replace the process by the system's program


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run `pymachine` against a store below tmp_path, with a home of its own and nothing else from outside.

    In this process, as starting Python costs more than most commands; those that exec get their own.
    """
    home = tmp_path / "home"
    home.mkdir()
    clean = {"PATH": os.environ["PATH"], "HOME": str(home), "PYMACHINE_STORAGE_PATH": str(tmp_path / "store")}

    def run(*arguments: str, stdin: str = "", **variables: str) -> Output:
        environment = {**clean, **variables}
        inside = not (arguments and arguments[0] in _EXECS)
        output = _inside(arguments, stdin, environment) if inside else _outside(arguments, stdin, environment)
        assert "Traceback" not in output.err
        assert "internal error" not in output.err
        return output

    def _inside(arguments: tuple[str, ...], stdin: str, environment: dict[str, str]) -> Output:
        out, err = io.StringIO(), io.StringIO()
        umask = os.umask(0o022)
        with monkeypatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            for name in os.environ:
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.chdir(tmp_path)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            # The host of these tests is this machine; an engine that is really installed here is not for them.
            patch.setattr("pymachine.provision.install.INSTALLED", str(tmp_path / "longshore-setup"))
            try:
                with pytest.raises(SystemExit) as end:
                    main(arguments)
            finally:
                os.umask(umask)
        code = end.value.code
        assert isinstance(code, int)
        return Output(code, out.getvalue(), err.getvalue())

    def _outside(arguments: tuple[str, ...], stdin: str, environment: dict[str, str]) -> Output:
        done = subprocess.run(
            [sys.executable, "-m", "pymachine", *arguments],
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
        )
        return Output(done.returncode, done.stdout, done.stderr)

    return run


@dataclass(frozen=True)
class Sshd:
    """A running server: log in as `user` with `key`."""

    port: int
    user: str
    key: Path
    host_key: str
    fingerprint: str

    def flags(self, **replace: str) -> list[str]:
        """The flags of `create` for this server."""
        flags = {
            "generic-ip-address": "127.0.0.1",
            "generic-ssh-port": str(self.port),
            "generic-ssh-user": self.user,
            "generic-ssh-key": str(self.key),
            "generic-host-key": self.host_key,
        }
        flags |= {name.replace("_", "-"): value for name, value in replace.items()}
        return [f"--{name}={value}" for name, value in flags.items() if value]


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Generator[Sshd]:
    """openssh-server in the foreground on 127.0.0.1, its host key made here."""
    if not SSHD.exists():
        pytest.skip("openssh-server is not installed")
    folder = tmp_path_factory.mktemp("sshd")
    host, login = make_key_pair("host"), make_key_pair("login")
    for name, data in (
        ("host", host.private),
        ("login", login.private),
        ("keys", login.public.encode() + b"\n"),
    ):
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    port = free_port()
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/keys\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    separation = Path("/run/sshd")  # sshd(8) insists on it when it runs as root
    made = os.geteuid() == 0 and not separation.exists()
    if made:
        separation.mkdir(mode=0o755)
    lift_penalties(folder / "config")
    process = subprocess.Popen(
        [str(SSHD), "-D", "-e", "-f", str(folder / "config")], stderr=(folder / "log").open("wb")
    )
    try:
        wait_for_port(port, process)
        (key,) = parse_host_keys(host.public)
        yield Sshd(port, _user(), folder / "login", host.public, key.fingerprint)
    finally:
        process.terminate()
        process.wait(10)
        if made:
            separation.rmdir()


def lift_penalties(config: Path) -> None:
    """OpenSSH 9.8 shuts a source out for a while after refused logins, which the tests make on purpose."""
    lifted = config.with_name("lifted")
    lifted.write_text(config.read_text() + "PerSourcePenalties no\n")
    lifted.chmod(0o600)
    if subprocess.run([str(SSHD), "-t", "-f", str(lifted)], check=False, capture_output=True).returncode == 0:
        lifted.replace(config)


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended at once"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"nothing listens on {port}")


_INSTALLER = """
import json, pathlib, sys
arguments = sys.argv[1:]
log = pathlib.Path({log!r})
options = dict(zip(arguments[1::2], arguments[2::2]))
folder = pathlib.Path(options["--tls-dir"])
state = {{
    "config": json.loads(pathlib.Path(options["--config"]).read_text()),
    "files": {{p.name: p.read_text() for p in sorted(folder.iterdir())}},
    "command": arguments[0],
    "release": {version!r} + "-abc",
    "modes": [oct(p.stat().st_mode & 0o777) for p in sorted(folder.iterdir())],
}}
before = log.read_text() if log.exists() else ""
after = json.dumps(state, sort_keys=True)
log.write_text(after)
if pathlib.Path({fail!r}).exists():
    print(json.dumps({{"failed": True, "error": "the disk is full"}}))
    sys.exit(1)
if arguments[0] == "install":
    installed = pathlib.Path({installed!r})
    installed.write_text(f"#!/bin/sh\\nexec {{sys.executable}} {{sys.argv[0]}} \\"$@\\"\\n")
    installed.chmod(0o755)
print("a login script may say something")
print(json.dumps({{"changed": before != after, "version": {version!r}, "release": {version!r} + "-abc",
                   "previous": "0.0.1-abc", "service": "sysv",
                   "changes": ["release 0.0.1-abc -> ..."] if {version!r} not in before else ["write x"]}}))
"""


@dataclass(frozen=True)
class StandIn:
    """A bundle that installs nothing: it notes what it was given in `log`, and fails while `fail` exists."""

    path: Path
    log: Path
    fail: Path
    version: str


@pytest.fixture
def bundle(tmp_path: Path) -> StandIn:
    return make_bundle(tmp_path, "0.1.0")


@pytest.fixture
def older_bundle(tmp_path: Path) -> StandIn:
    return make_bundle(tmp_path, "0.0.9")


def make_bundle(folder: Path, version: str) -> StandIn:
    """Installed, it is `folder`/longshore-setup."""
    path = folder / f"longshore-{version}-{os.uname().machine}.pyz"
    log, fail = folder / "installed.json", folder / "fail"
    with zipfile.ZipFile(path, "w") as archive:
        code = _INSTALLER.format(
            log=str(log), fail=str(fail), version=version, installed=str(folder / "longshore-setup")
        )
        archive.writestr("__main__.py", code)
        manifest = {
            "version": version,
            "release": f"{version}-abc",
            "arch": os.uname().machine,
            "pythons": [],
        }
        archive.writestr("manifest.json", json.dumps(manifest))
    return StandIn(path, log, fail, version)


class _Api(BaseHTTPRequestHandler):
    """As much of the Docker API as the check after provisioning asks for."""

    def do_GET(self) -> None:
        body = b"OK"
        if self.path.endswith("/version"):
            body = json.dumps({"Version": "9.9.9", "ApiVersion": "1.44"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        return


@dataclass
class TlsEngine:
    """An engine's TCP door: starts serving as soon as the stand-in installer has got its certificates."""

    port: int
    log: Path

    def serve(self, stop: threading.Event, folder: Path) -> None:
        while not self.log.exists():
            if stop.wait(0.02):
                return
        time.sleep(0.05)
        files = json.loads(self.log.read_text())["files"]
        for name in ("ca.pem", "server-cert.pem", "server-key.pem"):
            (folder / name).write_text(files[name])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server-cert.pem", folder / "server-key.pem")
        context.load_verify_locations(folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        server = ThreadingHTTPServer(("127.0.0.1", self.port), _Api)
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        stop.wait()
        server.shutdown()
        server.server_close()


@pytest.fixture
def tls_engine(tmp_path: Path, bundle: StandIn) -> Generator[TlsEngine]:
    engine = TlsEngine(free_port(), bundle.log)
    folder = tmp_path / "tls"
    folder.mkdir()
    stop = threading.Event()
    thread = threading.Thread(target=engine.serve, args=(stop, folder))
    thread.start()
    try:
        yield engine
    finally:
        stop.set()
        thread.join(10)
