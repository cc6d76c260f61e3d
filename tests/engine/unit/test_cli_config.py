"""Logins of registries: config.json as docker writes it, and credential helpers."""

import base64
import json
import stat
from pathlib import Path

import pytest

from longshore.cli.config import DOCKER_HUB, ConfigFile, auth_header, server_key
from longshore.cli.pull import familiar_name
from longshore.errors import EngineError, InvalidArgument

HELPER = """#!/bin/sh
store="$(dirname "$0")/secrets"
mkdir -p "$store"
name() { printf %s "$1" | tr '/:' '__'; }
case "$1" in
get) read -r server; cat "$store/$(name "$server")" 2>/dev/null ||
    { echo "credentials not found in native keychain"; exit 1; } ;;
store) data="$(cat)"; server="$(printf %s "$data" | sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/')"
    printf %s "$data" >"$store/$(name "$server")" ;;
erase) read -r server; rm -f "$store/$(name "$server")" ;;
list) echo '{"kept.example": "me"}' ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "docker-credential-test"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize(
    ("server", "key"),
    [
        ("", DOCKER_HUB),
        ("docker.io", DOCKER_HUB),
        ("https://index.docker.io/v1/", DOCKER_HUB),
        ("localhost:5000", "localhost:5000"),
        ("https://r.example/v2/", "r.example"),
    ],
)
def test_one_registry_has_one_key(server: str, key: str) -> None:
    assert server_key(server) == key


def test_a_login_is_kept_as_docker_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"psFormat": "x", "auths": {"other": {"auth": "YTpi"}}}')
    config = ConfigFile(str(tmp_path))
    assert config.get("r.example") == {}
    assert config.store("https://r.example", "me", "s:e") == str(tmp_path / "config.json")
    value = json.loads((tmp_path / "config.json").read_text())
    assert value["psFormat"] == "x"
    assert value["auths"]["r.example"] == {"auth": base64.b64encode(b"me:s:e").decode()}
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o600
    again = ConfigFile(str(tmp_path))
    assert again.get("r.example") == {"username": "me", "password": "s:e", "serveraddress": "r.example"}
    assert set(again.all()) == {"other", "r.example"}
    assert again.erase("r.example")
    assert not again.erase("r.example")
    assert set(ConfigFile(str(tmp_path)).all()) == {"other"}


def test_tokens_and_the_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"auths": {"https://r.example/v1/": {"auth": "YTpi"}, "t": {"auth": "YTo=", "identitytoken": "tok"}, "e": {}}}'
    )
    config = ConfigFile(str(tmp_path))
    assert config.get("r.example")["password"] == "b"
    assert config.get("t") == {"identitytoken": "tok", "serveraddress": "t"}
    assert config.get("e") == {}
    header = auth_header(config.get("r.example"))["X-Registry-Auth"]
    assert json.loads(base64.urlsafe_b64decode(header))["username"] == "a"
    assert auth_header({}) == {}


@pytest.mark.parametrize("text", ["[]", "{", '{"auths": {"x": {"auth": "%%%"}}}'])
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        ConfigFile(str(tmp_path)).get("x")


def test_a_helper_keeps_the_secret_instead_of_the_file(tmp_path: Path, helper: Path) -> None:
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "config.json").write_text('{"credsStore": "test"}')
    config = ConfigFile(str(folder))
    assert config.get("r.example") == {}
    assert config.store("r.example", "me", "secret") == "the credential helper test"
    assert "secret" not in (folder / "config.json").read_text()
    assert ConfigFile(str(folder)).get("r.example")["password"] == "secret"
    assert set(ConfigFile(str(folder)).all()) == {"r.example"}
    assert config.erase("r.example")
    assert config.get("r.example") == {}
    assert config.store("t.example", "me", "", token="tok") == "the credential helper test"
    assert config.get("t.example") == {"identitytoken": "tok", "serveraddress": "t.example"}


def test_a_helper_for_one_registry_and_one_that_is_not_there(tmp_path: Path, helper: Path) -> None:
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "config.json").write_text('{"credHelpers": {"a.example": "test", "b.example": "gone"}}')
    config = ConfigFile(str(folder))
    assert "helper" in config.store("a.example", "me", "x")
    assert config.store("c.example", "me", "x") == str(folder / "config.json")
    with pytest.raises(EngineError, match="docker-credential-gone"):
        config.get("b.example")


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("me/x:1", "docker.io/me/x:1"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("x@sha256:ab", "docker.io/library/x@sha256:ab"),
    ],
)
def test_pulled_names_are_whole(reference: str, name: str) -> None:
    assert familiar_name(reference) == name
