"""Flags and daemon.json."""

import json
from pathlib import Path

import pytest

from longshore.daemon.settings import Settings, normal_host, parse_settings, read_config, reloaded
from longshore.errors import InvalidArgument


def config(tmp_path: Path, value: object) -> str:
    path = tmp_path / "daemon.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_flags_are_dockerds() -> None:
    settings = parse_settings(
        [
            "--data-root",
            "/d",
            "--exec-root=/e",
            "-H",
            "unix:///s",
            "--host",
            "/t",
            "-p",
            "/p",
            "-b",
            "br9",
            "--bip",
            "10.9.0.1/16",
            "--mtu",
            "1400",
            "-l",
            "warn",
            "-D",
            "--label",
            "a=b",
            "--config-file",
            "/dev/null",
        ]
    )
    assert (settings.data_root, settings.exec_root, settings.pidfile, settings.bridge) == (
        "/d",
        "/e",
        "/p",
        "br9",
    )
    assert settings.hosts == ("unix:///s", "unix:///t")
    assert (settings.bip, settings.mtu, settings.labels) == ("10.9.0.1/16", 1400, ("a=b",))
    assert settings.level == "debug"


def test_a_boolean_flag_does_not_eat_the_next_word(tmp_path: Path) -> None:
    settings = parse_settings(
        ["-D", "--live-restore", "--mtu", "1300", "--config-file", config(tmp_path, {})]
    )
    assert settings.debug
    assert settings.mtu == 1300
    assert not parse_settings(["--debug=false", "--config-file", config(tmp_path, {})]).debug


def test_the_file_has_dockerds_keys(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        {"hosts": ["unix:///x"], "data-root": "/d", "debug": True, "insecure-registries": ["r:5000"]},
    )
    settings = parse_settings(["--config-file", path])
    assert (settings.hosts, settings.data_root, settings.debug) == (("unix:///x",), "/d", True)
    assert settings.insecure_registries == ("r:5000",)
    assert settings.config_file == path


@pytest.mark.parametrize(
    ("document", "arguments", "words"),
    [
        ({"data-root": "/a"}, ["--data-root", "/b"], ["data-root", "/a", "/b", "daemon.json"]),
        ({"no-such-key": 1}, [], ["no-such-key"]),
        ({"debug": "yes"}, [], ["debug", "true or false"]),
        ({"mtu": "1500"}, [], ["mtu", "a number"]),
        ({"hosts": "unix:///x"}, [], ["hosts", "list"]),
        ([], [], ["object"]),
        ("{", [], ["not JSON"]),
        ({}, ["--log-level", "loud"], ["loud"]),
        ({}, ["--label", "novalue"], ["novalue"]),
        ({}, ["--nonsense"], ["--nonsense"]),
        ({}, ["-H", "http://x"], ["http://x"]),
        ({}, ["-H", "tcp://1.2.3.4:99999"], ["99999"]),
    ],
)
def test_bad_settings_are_refused_by_name(
    tmp_path: Path, document: object, arguments: list[str], words: list[str]
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_settings([*arguments, "--config-file", config(tmp_path, document)])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("unix:///a/b", "unix:///a/b"),
        ("/a/b", "unix:///a/b"),
        ("unix://", "unix:///run/longshore/longshore.sock"),
        ("tcp://0.0.0.0", "tcp://0.0.0.0:2376"),
        ("tcp://:1234", "tcp://127.0.0.1:1234"),
        ("tcp://[::1]:1234", "tcp://[::1]:1234"),
        ("tcp://1.2.3.4:0", "tcp://1.2.3.4:0"),
        ("fd://", "fd://"),
    ],
)
def test_hosts_are_written_out(text: str, host: str) -> None:
    assert normal_host(text) == host


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--tls"],
        ["--tlsverify"],
        ["--tlsverify", "--tlscacert", "/none", "--tlscert", "/none", "--tlskey", "/none"],
    ],
)
def test_attack_11_tcp_without_client_certificates_does_not_start(
    tmp_path: Path, arguments: list[str]
) -> None:
    """Fails when a part of the certificates is enough."""
    with pytest.raises(InvalidArgument, match=r"tls|certificates"):
        parse_settings(["-H", "tcp://127.0.0.1:2376", *arguments, "--config-file", config(tmp_path, {})])


def test_a_reload_changes_what_may_change_and_names_the_rest(tmp_path: Path) -> None:
    path = config(tmp_path, {"labels": ["a=1"], "mtu": 1500})
    settings = parse_settings(["--config-file", path, "--log-level", "warn"])
    config(tmp_path, {"labels": ["a=2"], "mtu": 1400, "debug": True})
    new, stuck = reloaded(settings)
    assert (new.labels, new.debug, new.mtu, new.log_level) == (("a=2",), True, 1500, "warn")
    assert stuck == ["mtu"]


def test_a_missing_file_that_was_named_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match=r"/none/daemon\.json"):
        read_config("/none/daemon.json")
    assert Settings().pid_path == Path("/run/longshore/longshored.pid")
