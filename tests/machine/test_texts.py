"""Pure text: argument vectors, keys, templates, shells, settings, facts, flags."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pymachine import drivers, gotemplate, shells
from pymachine.commands.create import asked_driver
from pymachine.drivers.base import State
from pymachine.drivers.local import parse_cpus, parse_memory
from pymachine.errors import InvalidInput, MachineError, ProvisionError
from pymachine.keys import (
    HostKey,
    host_pattern,
    known_hosts_text,
    make_key_pair,
    parse_host_keys,
    read_host_keys,
)
from pymachine.listing import Row, columns, matches, parse_filters
from pymachine.provision.host import choose_python, parse_facts
from pymachine.provision.settings import daemon_settings, encode, parse_option
from pymachine.record import EngineOptions
from pymachine.ssh import remote_line
from pymachine.ssh_command import Login, Place, parse_place, scp_argv, ssh_argv

WEB1 = Login("web1", "10.0.0.7", 22, "root", Path("/s/web1/id_ed25519"), Path("/s/web1/known_hosts"))
WEB2 = Login("web2", "fd00::2", 2222, "me", Path("/s p/k%"), Path("/s p/known%hosts"))


def test_ssh_pins_the_host_key_and_ends_its_options_before_the_host() -> None:
    argv = ssh_argv(WEB1, ["ls", "-l", "/a b"])
    assert argv[-5:] == ["--", "10.0.0.7", "ls", "-l", "/a b"]
    assert "StrictHostKeyChecking=yes" in argv
    assert "UserKnownHostsFile=/s/web1/known_hosts" in argv
    assert "HostKeyAlias=web1" in argv
    assert "IdentityFile=/s/web1/id_ed25519" in argv


def test_ssh_understands_odd_paths() -> None:
    """ssh itself says how it reads what we give it."""
    if not shutil.which("ssh"):
        pytest.skip("no ssh client")
    argv = ssh_argv(WEB2)
    text = subprocess.run(
        [argv[0], "-G", *argv[1:]], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "userknownhostsfile /s p/known%hosts" in text
    assert "hostname fd00::2" in text
    assert "port 2222" in text
    assert "stricthostkeychecking true" in text
    assert "identityfile /s p/k%%" in text


def test_scp_between_two_machines_has_a_port_and_a_key_for_each() -> None:
    argv = scp_argv(Place("/etc/x", WEB1), Place("y", WEB2), recursive=True, quiet=True)
    assert argv[-3:] == ["--", "scp://root@10.0.0.7:22//etc/x", "scp://me@[fd00::2]:2222/y"]
    assert {"-3", "-r", "-q"} <= set(argv)
    assert 'UserKnownHostsFile=/s/web1/known_hosts "/s p/known%%hosts"' in argv
    assert not [word for word in argv if word.startswith("HostKeyAlias")]


def test_scp_local_names_are_never_options() -> None:
    assert scp_argv(Place("-oProxyCommand=x"), Place("y", WEB1))[-2] == "./-oProxyCommand=x"
    with pytest.raises(InvalidInput):
        scp_argv(Place("a"), Place("b"))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("web1:/a", ("web1", "/a")),
        ("web1:", ("web1", "")),
        ("./a:b", ("", "./a:b")),
        ("/a:b", ("", "/a:b")),
        ("a", ("", "a")),
    ],
)
def test_places(text: str, place: tuple[str, str]) -> None:
    assert parse_place(text) == place


def test_remote_commands_are_quoted_once() -> None:
    assert remote_line(["sh", "-c", "echo 'a b'"]) == "sh -c 'echo '\"'\"'a b'\"'\"''"
    assert shlex.split(remote_line(["a", "b c"], sudo=True)) == ["sudo", "-n", "--", "a", "b c"]
    assert shlex.split(remote_line("a | b", sudo=True)) == ["sudo", "-n", "--", "sh", "-c", "a | b"]


def test_fingerprints_and_keys_are_openssh_s(tmp_path: Path) -> None:
    if not shutil.which("ssh-keygen"):
        pytest.skip("no ssh-keygen")
    pair = make_key_pair("me@here")
    private = tmp_path / "key"
    private.write_bytes(pair.private)
    private.chmod(0o600)
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", private], capture_output=True, text=True, check=True
    ).stdout
    assert public.split()[:2] == pair.public.split()[:2]
    listed = subprocess.run(
        ["ssh-keygen", "-l", "-f", private], capture_output=True, text=True, check=True
    ).stdout
    assert parse_host_keys(pair.public)[0].fingerprint == listed.split()[1]


def test_host_keys_in_all_their_forms(tmp_path: Path) -> None:
    public = make_key_pair("c").public
    (key,) = parse_host_keys(public)
    assert parse_host_keys(
        f"host,10.0.0.1 {key}\n# comment {key}\n@revoked host {key}\n|1|a=|b= {key} x\n"
    ) == (key,)
    file = tmp_path / "key.pub"
    file.write_text(public)
    assert read_host_keys(str(file)) == read_host_keys(public) == (key,)
    assert parse_host_keys("ssh-ed25519 AAAA") == ()  # not a key of that kind
    for bad in ("nonsense", str(tmp_path), str(tmp_path / "missing")):
        with pytest.raises(InvalidInput):
            read_host_keys(bad)


def test_known_hosts_names() -> None:
    assert host_pattern("h", 22) == "h"
    assert host_pattern("h", 2222) == "[h]:2222"
    assert known_hosts_text(["web1", "h", "web1"], [HostKey("k", "b")]) == "web1,h k b\n"


VALUE = {
    "Name": "web1",
    "Driver": {"IPAddress": "1.2.3.4", "Ports": [1, 2]},
    "Labels": {"a.b": "c"},
    "On": True,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "web1"),
        ("{{ .Driver.IPAddress }}:{{.On}}", "1.2.3.4:true"),
        ("{{json .Driver}}", '{"IPAddress":"1.2.3.4","Ports":[1,2]}'),
        ("{{.Driver.Ports}}", "[1 2]"),
        ("{{.Labels}}", "map[a.b:c]"),
        ('{{index .Labels "a.b"}} {{index .Driver.Ports 1}}', "c 2"),
        (r"a\tb\n", "a\tb\n"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert gotemplate.render(template, VALUE) == text


@pytest.mark.parametrize(
    "template",
    ["{{.Nme}}", "{{.Name.X}}", "{{range .X}}", "{{", "{{index .Driver.Ports 7}}", '{{index .Labels "x"}}'],
)
def test_templates_that_cannot_be_done_are_refused(template: str) -> None:
    with pytest.raises(InvalidInput):
        gotemplate.render(template, VALUE)


NASTY = "/a b/$HOME`id`\"'x\\"


@pytest.mark.parametrize("shell", ["bash", "sh", "zsh", "fish", "tcsh"])
def test_a_real_shell_gets_the_value_back(shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    text = shells.assignments(shell, {"DOCKER_CERT_PATH": NASTY}) + shells.usage(shell, "pymachine env")
    script = text + 'printf %s "$DOCKER_CERT_PATH"\n'
    assert subprocess.run([program, "-c", script], capture_output=True, text=True, check=True).stdout == NASTY


def test_env_output_is_docker_machines() -> None:
    values = {"DOCKER_TLS_VERIFY": "1", "DOCKER_HOST": "tcp://10.0.0.7:2376"}
    assert (
        shells.assignments("bash", values)
        == 'export DOCKER_TLS_VERIFY="1"\nexport DOCKER_HOST="tcp://10.0.0.7:2376"\n'
    )
    assert shells.assignments("fish", values).splitlines()[0] == 'set -gx DOCKER_TLS_VERIFY "1";'
    assert shells.assignments("powershell", values).splitlines()[0] == '$Env:DOCKER_TLS_VERIFY = "1"'
    assert shells.assignments("cmd", values).splitlines()[0] == "SET DOCKER_TLS_VERIFY=1"
    assert shells.assignments("bash", {"DOCKER_HOST": ""}) == "unset DOCKER_HOST\n"
    assert shells.usage("bash", "pymachine env web1").endswith("# eval $(pymachine env web1)\n")


def test_the_shell_is_the_users_unless_named() -> None:
    assert shells.detect("", {"SHELL": "/usr/bin/fish"}) == "fish"
    assert shells.detect("zsh", {"SHELL": "/usr/bin/fish"}) == "zsh"
    assert shells.detect("", {"SHELL": "/bin/dash"}) == shells.detect("", {}) == "bash"
    with pytest.raises(InvalidInput):
        shells.detect("bsh", {})


def test_daemon_settings() -> None:
    options = EngineOptions(
        port=2399, options=("log-level=debug", "bip=10.9.0.1/16", "debug", "mtu=1400"), labels=("a=b",)
    )
    settings = daemon_settings(options)
    assert settings["hosts"] == ["unix:///run/longshore/longshore.sock", "tcp://0.0.0.0:2399"]
    assert settings["tlsverify"] is True
    assert settings["log-level"] == "debug"
    assert settings["mtu"] == 1400
    assert settings["debug"] is True
    assert settings["labels"] == ["a=b"]
    assert encode(settings) == encode(dict(reversed(settings.items())))


@pytest.mark.parametrize("option", ["", "=x", "tlsverify=false", "--hosts=[]", "a b=c"])
def test_options_that_would_open_the_engine_are_refused(option: str) -> None:
    with pytest.raises(InvalidInput):
        parse_option(option)


FACTS = """Welcome to a banner = yes
os=debian
os_version=11
os_name=Debian GNU/Linux 11 (bullseye)
system=Linux
arch=x86_64
uid=0
root=yes
python=3.9.2 /usr/bin/python3
"""


def test_hosts_with_an_old_python_are_refused_by_name() -> None:
    host = parse_facts(FACTS)
    assert (host.os, host.arch, host.can_be_root) == ("debian", "x86_64", True)
    with pytest.raises(ProvisionError, match="Debian GNU/Linux 11") as caught:
        choose_python(host, "root@web1:22")
    assert "found 3.9.2 (/usr/bin/python3)" in str(caught.value)
    newer = parse_facts(FACTS + "python=3.11.9 /usr/local/bin/python3.11\n")
    assert choose_python(newer, "web1").path == "/usr/local/bin/python3.11"
    with pytest.raises(ProvisionError, match="has no Python"):
        choose_python(parse_facts(""), "web1")


@pytest.mark.parametrize(
    ("text", "value"), [("", 0), ("512", 512 << 20), ("512m", 512 << 20), ("2G", 2 << 30), ("1gib", 1 << 30)]
)
def test_memory(text: str, value: int) -> None:
    assert parse_memory(text) == value


@pytest.mark.parametrize("text", ["x", "-1", "1.5g", "2q"])
def test_bad_memory(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_memory(text)


def test_cpus() -> None:
    assert parse_cpus("1.5") == 1_500_000_000
    for bad in ("0", "-1", "nan", "x", "inf"):
        with pytest.raises(InvalidInput):
            parse_cpus(bad)


@pytest.mark.parametrize(
    ("args", "driver"),
    [
        (["-d", "generic", "x"], "generic"),
        (["--driver=none", "x"], "none"),
        (["-dnone"], "none"),
        (["x"], "local"),
        (["--", "-d", "none"], "local"),
    ],
)
def test_the_driver_is_found_before_flags_are_parsed(args: list[str], driver: str) -> None:
    assert asked_driver(args) == driver


def test_drivers_are_found() -> None:
    assert {"generic", "local", "none"} <= set(drivers.names())
    with pytest.raises(InvalidInput, match="no driver 'azure'"):
        drivers.find("azure")


def test_errors_are_one_line() -> None:
    assert str(MachineError("what", detail="a\n  b\n", hint="do")) == "what: a; b (do)"


def test_tables_are_aligned() -> None:
    assert columns(["A\tB\tC", "long\tx\t", "m\tlonger\ty"]) == [
        "A      B        C",
        "long   x",
        "m      longer   y",
    ]


def test_filters() -> None:
    wanted = parse_filters(["state=Running", "state=paused", "name=^web"])
    assert matches(Row("web1", state=State.PAUSED), wanted)
    assert not matches(Row("web1", state=State.STOPPED), wanted)
    for bad in ("x", "colour=red", "name=("):
        with pytest.raises(InvalidInput):
            parse_filters([bad])
