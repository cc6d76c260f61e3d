"""The stock docker CLI over TCP with mutual TLS."""

import importlib.util
import socket
import sys
from pathlib import Path
from typing import Any


def certificates(folder: Path) -> Any:
    """The same makers of certificates as the unit tests'."""
    path = Path(__file__).parent.parent / "unit/test_api_tls.py"
    spec = importlib.util.spec_from_file_location("longshore_tests_tls", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    authority = module.make_certificate(folder, "ca", None, [])
    module.make_certificate(folder, "server", authority, ["localhost"])
    module.make_certificate(folder, "cert", authority, [])
    stranger = module.make_certificate(folder, "other", None, [])
    module.make_certificate(folder, "stranger", stranger, [])


def test_docker_over_tls_with_half_close(own_daemon: Any, tmp_path: Path) -> None:
    certificates(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own_daemon.flags = (
        *("-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", str(tmp_path / "ca.pem")),
        *("--tlscert", str(tmp_path / "server.pem"), "--tlskey", str(tmp_path / "server-key.pem")),
    )
    own_daemon.start()
    own_daemon.load()

    def flags(name: str) -> tuple[str, ...]:
        files = ("--tlscacert", str(tmp_path / "ca.pem"), "--tlscert", str(tmp_path / f"{name}.pem"))
        return (
            *("-H", f"tcp://127.0.0.1:{port}", "--tlsverify"),
            *files,
            "--tlskey",
            str(tmp_path / f"{name}-key.pem"),
        )

    for run in (own_daemon.docker, own_daemon.longshore):
        data = b"x" * 1_000_000
        done = run(*flags("cert"), "run", "--rm", "-i", "busybox", "sh", "-c", "wc -c; echo end", input=data)
        assert done.out == "1000000\nend\n"
        assert run(*flags("stranger"), "ps", check=False).code == 1
    assert own_daemon.answers()
