"""The driver `generic` and provisioning, against a real sshd."""

import base64
import json
import os
import shutil
import socket
import stat
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pymachine.errors import AuthenticationFailed, HostKeyRefused, RemoteFailed, Unreachable
from pymachine.keys import make_key_pair, parse_host_keys
from pymachine.ssh import Target, connect, scan

OTHER = make_key_pair("other")


def _target(sshd: Any, **change: Any) -> Target:
    values = {"host": "127.0.0.1", "port": sshd.port, "user": sshd.user, "key": sshd.key,
              "host_keys": parse_host_keys(sshd.host_key)}  # fmt: skip
    return Target(**{**values, **change})


# The transport


def test_run_keeps_the_streams_apart_and_the_code(sshd: Any) -> None:
    transport = connect(_target(sshd))
    result = transport.run(["sh", "-c", "cat; echo bad >&2; exit 3"], stdin=b"in", check=False)
    assert (result.code, result.stdout, result.stderr) == (3, "in", "bad\n")
    with pytest.raises(RemoteFailed, match=r"ended with code 3.*bad"):
        transport.run("echo bad >&2; exit 3")
    transport.close()
    transport.close()


def test_large_streams_both_ways_do_not_block(sshd: Any) -> None:
    transport = connect(_target(sshd))
    data = os.urandom(3_000_000)
    script = "base64 -w0; head -c 3000000 /dev/zero | tr '\\0' e >&2"
    result = transport.run(["sh", "-c", script], stdin=data)
    assert base64.b64decode(result.stdout) == data
    assert len(result.stderr) == 3_000_000
    transport.close()


def test_a_command_that_does_not_read_its_input_ends(sshd: Any) -> None:
    transport = connect(_target(sshd))
    assert transport.run(["true"], stdin=b"x" * 10_000_000).code == 0
    transport.close()


def test_put_is_whole_or_nothing(sshd: Any, tmp_path: Path) -> None:
    transport = connect(_target(sshd))
    target = tmp_path / "a 'file"
    transport.put(b"one", str(target), 0o640)
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 1000)
    transport.put(source, str(target), 0o600)
    assert target.read_bytes() == source.read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with pytest.raises(RemoteFailed):
        transport.put(b"x", str(tmp_path / "missing/file"), 0o600)
    (tmp_path / "folder/x").mkdir(parents=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a 'file", "folder", "source"]
    transport.close()


def test_silence_ends_after_the_timeout(sshd: Any) -> None:
    transport = connect(_target(sshd))
    with pytest.raises(Unreachable, match="no answer in time"):
        transport.run(["sleep", "5"], timeout=0.3)
    transport.close()


def test_wrong_host_key(sshd: Any) -> None:
    with pytest.raises(HostKeyRefused, match="is not the pinned one") as caught:
        connect(_target(sshd, host_keys=parse_host_keys(OTHER.public)))
    assert caught.value.fingerprint == sshd.fingerprint
    with pytest.raises(HostKeyRefused, match="no host key of"):
        connect(_target(sshd, host_keys=()))


def test_wrong_key_and_wrong_user(sshd: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(OTHER.private)
    with pytest.raises(AuthenticationFailed, match="refuses the key"):
        connect(_target(sshd, key=wrong))
    with pytest.raises(AuthenticationFailed, match="refuses the key"):
        connect(_target(sshd, user="nobody-of-that-name"))
    for path, words in (
        (tmp_path / "missing", "does not exist"),
        (Path("/etc/hostname"), "cannot read the key"),
    ):
        with pytest.raises(AuthenticationFailed, match=words):
            connect(_target(sshd, key=path))


def test_unreachable(sshd: Any) -> None:
    with pytest.raises(Unreachable, match="refuses connections"):
        connect(_target(sshd, port=1))
    with pytest.raises(Unreachable, match="cannot find the host"):
        connect(_target(sshd, host="no-such-host.invalid"))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Unreachable, match="no SSH server answers"),
    ):
        connect(_target(sshd, port=silent.getsockname()[1]), timeout=0.5)


def test_scan_shows_each_key_once(sshd: Any) -> None:
    assert [key.fingerprint for key in scan("127.0.0.1", sshd.port)] == [sshd.fingerprint]


# The command line


def _tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_bare_host_from_create_to_rm(cli: Any, sshd: Any, tmp_path: Path) -> None:
    made = cli("create", "-d", "generic", "--no-engine", *sshd.flags(), "web1")
    assert (made.code, made.out) == (0, ""), made.err
    folder = tmp_path / "store/machines/web1"
    assert _tree(folder) == ["config.json", "id_ed25519", "known_hosts"]
    assert stat.S_IMODE((folder / "id_ed25519").stat().st_mode) == 0o600

    again = cli("create", "-d", "generic", "--no-engine", *sshd.flags(), "web1")
    assert again.code == 1
    assert "machine 'web1' already exists" in again.err

    assert cli("status", "web1").out == "Running\n"
    assert cli("ip", "web1").out == "127.0.0.1\n"
    assert cli("ls", "-q").out == "web1\n"
    lines = cli("ls").out.splitlines()
    assert lines[0].split() == ["NAME", "ACTIVE", "DRIVER", "STATE", "URL", "DOCKER", "ERRORS"]
    assert lines[1].split() == ["web1", "-", "generic", "Running"]
    assert cli("inspect", "-f", "{{.Driver.SSHPort}}", "web1").out == f"{sshd.port}\n"
    assert json.loads(cli("inspect", "web1").out)["DriverName"] == "generic"

    for variables in ({}, {"PYMACHINE_NATIVE_SSH": "1"}):  # the system's client, and ours
        done = cli("ssh", "web1", "cat; echo $0 >&2; exit 7", stdin="typed", **variables)
        assert (done.code, done.out) == (7, "typed")
    assert cli("ssh", "web1", "echo", "-n", "a").out == "a"

    (tmp_path / "file").write_text("text")
    assert cli("scp", "-q", "file", f"web1:{tmp_path}/copy").code == 0
    assert (tmp_path / "copy").read_text() == "text"

    for command in ("stop", "kill", "start"):
        refused = cli(command, "web1")
        assert refused.code == 1
        assert f"cannot {command} machine 'web1'" in refused.err
    assert "has no engine" in cli("env", "web1").err

    asked = cli("rm", "web1", stdin="n\n")
    assert asked.code == 130
    assert folder.exists()
    assert cli("rm", "-y", "web1").out == "Removed web1\n"
    assert _tree(tmp_path / "store") == ["locks", "machines"]
    assert cli("rm", "-y", "web1").code == 1
    assert cli("rm", "-f", "web1").code == 0


def test_the_pinned_key_is_what_counts_later(cli: Any, sshd: Any, tmp_path: Path) -> None:
    cli("create", "-d", "generic", "--no-engine", *sshd.flags(), "web1")
    known = tmp_path / "store/machines/web1/known_hosts"
    known.write_text(known.read_text().split(" ")[0] + f" {parse_host_keys(OTHER.public)[0]}\n")
    for variables in ({}, {"PYMACHINE_NATIVE_SSH": "1"}):
        done = cli("ssh", "web1", "true", **variables)
        assert done.code != 0
        assert "host key" in done.err.lower()


def test_ways_to_know_the_host_key(cli: Any, sshd: Any, tmp_path: Path) -> None:
    create = ("create", "-d", "generic", "--no-engine")
    unknown = cli(*create, *sshd.flags(generic_host_key=""), "web1")
    assert unknown.code == 1
    assert f"--generic-accept-host-key {sshd.fingerprint}" in unknown.err
    assert len(unknown.err.splitlines()) == 2  # what it does, and the error
    wrong = cli(*create, *sshd.flags(generic_host_key=""), "--generic-accept-host-key", "SHA256:x", "web1")
    assert wrong.code == 1
    assert sshd.fingerprint in wrong.err
    assert _tree(tmp_path / "store") == ["locks"]

    accepted = ("--generic-accept-host-key", sshd.fingerprint)
    assert cli(*create, *sshd.flags(generic_host_key=""), *accepted, "web1").code == 0
    (tmp_path / "host.pub").write_text(sshd.host_key)
    assert cli(*create, *sshd.flags(generic_host_key=str(tmp_path / "host.pub")), "web2").code == 0
    ssh = tmp_path / "home/.ssh"
    ssh.mkdir()
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
    assert cli(*create, *sshd.flags(generic_host_key=""), "web3").code == 0
    shutil.copy(sshd.key, ssh / "id_ed25519")  # and the user's own key, when none is named
    assert cli(*create, *sshd.flags(generic_ssh_key=""), "web4").code == 0
    assert cli("ssh", "web4", "echo", "in", PYMACHINE_NATIVE_SSH="1").out == "in\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generic_ssh_key": "/missing"}, "the key file /missing does not exist"),
        ({"generic_ssh_user": "nobody-of-that-name"}, "refuses the key"),
        ({"generic_host_key": OTHER.public}, "is not the pinned one"),
        ({"generic_host_key": "nonsense"}, "neither a host key nor a readable file"),
        ({"generic_ip_address": ""}, "needs --generic-ip-address"),
        ({"generic_ip_address": "-oProxyCommand=x"}, "is not an address"),
        ({"generic_ssh_port": "1"}, "refuses connections"),
        ({"generic_ssh_port": "99999"}, "is not a port"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Any, sshd: Any, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    failed = cli("create", "-d", "generic", "--no-engine", *sshd.flags(**change), "web1")
    assert failed.code == 1
    assert words in failed.err
    assert failed.err.splitlines()[-1].startswith("pymachine: ")
    assert not (tmp_path / "store/machines").exists()


def test_usage_errors_have_code_2(cli: Any) -> None:
    for arguments in (
        ["create", "--no-such-flag"],
        ["create", "-d", "generic", "--local-cpus=2", "x"],
        ["bogus"],
        ["rm"],
    ):
        assert cli(*arguments).code == 2
    for arguments in (
        ["create", "-d", "azure", "x"],
        ["create", "-d", "none", "--url", "tcp://h:1", "a/b"],
        ["ip", "x"],
    ):
        assert cli(*arguments).code == 1


def test_url_only_machines(cli: Any) -> None:
    assert cli("create", "-d", "none", "--url", "tcp://10.255.255.1:2376", "far").code == 0
    assert cli("url", "far").out == "tcp://10.255.255.1:2376\n"
    assert "cannot log in to" in cli("ssh", "far").err
    assert cli("active", DOCKER_HOST="tcp://10.255.255.1:2376").out == "far\n"
    none = cli("active")
    assert (none.code, none.out) == (1, "")


def test_a_broken_machine_spoils_nothing_for_the_others(cli: Any, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        cli("create", "-d", "none", "--url", "unix:///nowhere", name)
    (tmp_path / "store/machines/b/config.json").write_text("{")
    listed = cli("ls", "--format", "{{.Name}} {{.State}}")
    assert listed.out == "a Running\nb Error\nc Running\n"
    assert cli("ls", "-q", "--filter", "driver=none").out == "a\nc\n"
    assert cli("status", "b").out == "Error\n"
    assert cli("rm", "-y", "b").code == 1
    assert cli("rm", "-f", "b").code == 0
    assert cli("ls", "-q").out == "a\nc\n"


# Provisioning: everything real but what the bundle installs


def _create(cli: Any, sshd: Any, bundle: Any, port: int, tmp_path: Path, *flags: str) -> Any:
    return cli(
        "create", "-d", "generic", *sshd.flags(generic_engine_port=str(port)), "--engine-bundle", str(bundle.path),
        "--engine-cache", str(tmp_path / "cache"), *flags, "web1",
    )  # fmt: skip


def test_provisioning_end_to_end(cli: Any, sshd: Any, bundle: Any, tls_engine: Any, tmp_path: Path) -> None:
    made = _create(
        cli, sshd, bundle, tls_engine.port, tmp_path, "--engine-label", "role=web", "--tls-san", "web.example"
    )
    assert made.code == 0, made.err
    given = json.loads(bundle.log.read_text())
    assert given["config"]["hosts"][1] == f"tcp://0.0.0.0:{tls_engine.port}"
    assert given["config"]["labels"] == ["role=web"]
    assert set(given["modes"]) == {"0o600"}
    machine = tmp_path / "store/machines/web1"
    assert given["files"]["server-key.pem"] == (machine / "server-key.pem").read_text()
    assert not list(Path("/tmp").glob("pymachine.*"))
    (cached,) = (tmp_path / "cache").iterdir()
    assert cached.read_bytes() == bundle.path.read_bytes()
    assert not (machine / "create.journal").exists()

    # over real mutual TLS from here on
    url = f"tcp://127.0.0.1:{tls_engine.port}"
    # what the environment says about the web's authorities and proxies is not meant for engines
    web = {"REQUESTS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt", "HTTPS_PROXY": "http://127.0.0.1:1"}
    env = cli("env", "--shell", "bash", "web1", **web)
    assert env.out.splitlines()[:4] == [
        'export DOCKER_TLS_VERIFY="1"',
        f'export DOCKER_HOST="{url}"',
        f'export DOCKER_CERT_PATH="{machine}"',
        'export DOCKER_MACHINE_NAME="web1"',
    ]
    assert cli("version", "web1").out == "9.9.9\n"
    listed = cli(
        "ls", "--filter", "label=role=web", "--filter", "state=running", DOCKER_HOST=url
    ).out.splitlines()
    assert listed[1].split() == ["web1", "*", "generic", "Running", url, "v9.9.9"]

    before = bundle.log.read_text()
    again = cli("provision", "web1")
    assert again.code == 0, again.err
    assert "is there already" in again.err  # the bundle did not travel twice
    assert bundle.log.read_text() == before  # nor did anything else change

    renewed = cli("regenerate-certs", "-f", "--client-certs", "web1")
    assert renewed.code == 0, renewed.err
    after = json.loads(bundle.log.read_text())["files"]
    assert after["server-cert.pem"] != given["files"]["server-cert.pem"]
    assert after["ca.pem"] == given["files"]["ca.pem"]
    assert cli("version", "web1").out == "9.9.9\n"  # the new client certificate is good as well


def test_new_certificates_leave_a_release_that_was_rolled_back(
    cli: Any, sshd: Any, bundle: Any, older_bundle: Any, tls_engine: Any, tmp_path: Path
) -> None:
    """The host still has the bundle of the newer release; only the installed release may be asked."""
    assert _create(cli, sshd, bundle, tls_engine.port, tmp_path).code == 0
    first = json.loads(bundle.log.read_text())
    assert (first["command"], first["release"]) == ("install", "0.1.0-abc")
    rolled_back = f'#!/bin/sh\nexec {sys.executable} {older_bundle.path} "$@"\n'
    (tmp_path / "longshore-setup").write_text(rolled_back)
    renewed = cli("regenerate-certs", "-f", "web1")
    assert renewed.code == 0, renewed.err
    now = json.loads(bundle.log.read_text())
    assert (now["command"], now["release"]) == ("configure", "0.0.9-abc")
    assert now["files"]["server-cert.pem"] != first["files"]["server-cert.pem"]
    assert now["config"] == first["config"]
    assert len(list((tmp_path / "cache").iterdir())) == 1  # for the next install


def test_upgrade_replaces_the_kept_bundle(
    cli: Any, sshd: Any, bundle: Any, older_bundle: Any, tls_engine: Any, tmp_path: Path
) -> None:
    assert _create(cli, sshd, bundle, tls_engine.port, tmp_path).code == 0
    newer = bundle.path.with_name(bundle.path.name.replace("0.1.0", "0.2.0"))
    newer.write_bytes(bundle.path.read_bytes())
    with zipfile.ZipFile(newer, "a") as archive:
        archive.writestr("more", "other contents")
    done = cli("upgrade", "--engine-bundle", str(newer), "web1")
    assert done.code == 0, done.err
    assert "'web1': 0.1.0-abc already\n" in done.err  # the stand-in's contents are the same
    (cached,) = (tmp_path / "cache").iterdir()
    assert cached.name.endswith(newer.name)
    done = cli("upgrade", "--engine-bundle", str(older_bundle.path), "web1")
    assert "'web1': 0.0.1-abc -> 0.0.9-abc\n" in done.err


def test_a_failed_create_goes_on_or_goes_away(
    cli: Any, sshd: Any, bundle: Any, tls_engine: Any, tmp_path: Path
) -> None:
    bundle.fail.touch()
    failed = _create(cli, sshd, bundle, tls_engine.port, tmp_path)
    assert failed.code == 1
    last = failed.err.splitlines()[-1]
    assert "the disk is full" in last
    assert "the same command goes on" in last
    assert "its create stopped after generic:login" in cli("ls", "--format", "{{.Error}}").out

    other = _create(cli, sshd, bundle, tls_engine.port, tmp_path, "--engine-label", "other=1")
    assert other.code == 1
    assert "half made by a create with other flags" in other.err

    bundle.fail.unlink()
    resumed = _create(cli, sshd, bundle, tls_engine.port, tmp_path)
    assert resumed.code == 0, resumed.err
    assert "Going on with the create" in resumed.err
    assert "Copying the SSH key" not in resumed.err
    assert cli("version", "web1").out == "9.9.9\n"

    assert cli("rm", "-y", "web1").code == 0
    assert _tree(tmp_path / "store/machines") == []


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "does not exist"),
        (b"no zip", "is not a Longshore bundle"),
        (b"PK\5\6" + bytes(18), "is not a Longshore bundle"),
    ],
)
def test_a_bad_bundle_is_refused_before_anything_is_made(
    cli: Any, sshd: Any, tmp_path: Path, contents: bytes | None, words: str
) -> None:
    path = tmp_path / "x.pyz"
    if contents is not None:
        path.write_bytes(contents)
    failed = cli("create", "-d", "generic", *sshd.flags(), "--engine-bundle", str(path), "web1")
    assert failed.code == 1
    assert words in failed.err
    assert not (tmp_path / "store/machines").exists()


def test_a_create_killed_before_its_config_is_not_in_the_way(cli: Any, sshd: Any, tmp_path: Path) -> None:
    folder = tmp_path / "store/machines/web1"
    folder.mkdir(parents=True)
    (folder / "create.journal").write_text('{"request": {"driver": "local"}}\n')
    assert "no config.json" in cli("ls", "--format", "{{.Error}}").out
    assert cli("create", "-d", "generic", "--no-engine", *sshd.flags(), "web1").code == 0
    assert not (folder / "create.journal").exists()
