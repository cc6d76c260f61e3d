"""How command lines are read, what is told of a wrong one, and what the shell is offered."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from longshore.cli.commands import COMMANDS
from longshore.cli.flags import FlagError, LazyGroup, command, flag, many, number, one, several, text
from longshore.cli.main import cli
from longshore.cli.terminal import detach_keys


@command("try", program_follows=True)
@flag("-i", "--interactive")
@flag("-t", "--tty")
@flag("--sig-proxy", default=True)
@text("-m", "--memory")
@many("-e", "--env")
@many("--network")
@number("-n", "--number")
@one("image", "IMAGE")
@several("words", "COMMAND", required=False, raw=True)
def tried(**given: Any) -> None: ...


def read(*words: str) -> dict[str, Any]:
    context = tried.make_context("try", list(words))
    return {name: value for name, value in context.params.items() if value not in ("", (), None, False)}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["img", "-x", "--tty"], {"words": ("-x", "--tty")}),
        (["-it", "img"], {"interactive": True, "tty": True}),
        (["-t=false", "--interactive=true", "img"], {"interactive": True}),
        (["--sig-proxy=false", "img"], {"sig_proxy": False}),
        (["-m5", "img"], {"memory": "5"}),
        (["-m=5", "-n", "3", "img"], {"memory": "5", "number": 3}),
        (["--memory=a=b", "img"], {"memory": "a=b"}),
        (["-eA=1", "-e=B=2", "-e", "C", "--env=D", "img"], {"env": ("A=1", "B=2", "C", "D")}),
        (["-itm", "5", "img"], {"interactive": True, "tty": True, "memory": "5"}),
        (["--net", "host", "img"], {"network": ("host",)}),
        (["--", "img", "--", "x"], {"words": ("--", "x")}),
        (["-m", "-5", "img", "-"], {"memory": "-5", "words": ("-",)}),
    ],
)
def test_flags_are_read_as_docker_reads_them(words: list[str], found: dict[str, Any]) -> None:
    got = read(*words)
    assert got.pop("image") == "img"
    if found.get("sig_proxy") is not False:
        assert got.pop("sig_proxy") is True
    assert got == {name: value for name, value in found.items() if value is not False}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--memry", "5", "img"], r"unknown flag: --memry \(did you mean --memory\?\)"),
        (["-x", "img"], "unknown shorthand flag: 'x' in -x"),
        (["img-less", "-m"], None),
        (["-m"], "flag needs an argument: -m"),
        (["--tty=maybe", "img"], "invalid argument 'maybe' for --tty: write true or false"),
        (["-n", "many", "img"], "invalid argument for --number"),
    ],
)
def test_mistakes_are_told_with_what_was_meant(words: list[str], told: str | None) -> None:
    if told is None:
        assert read(*words)["image"] == "img-less"  # what follows belongs to the program
        return
    with pytest.raises(FlagError, match=told):
        read(*words)


def test_missing_and_unknown_words() -> None:
    with pytest.raises(click.UsageError, match="try needs IMAGE"):
        read()
    with pytest.raises(click.UsageError, match=r"unknown command: longshore unpaus \(did you mean unpause"):
        cli.main(["unpaus"], prog_name="longshore", standalone_mode=False)
    with pytest.raises(click.UsageError, match="unknown command: longshore container strt"):
        cli.main(["container", "strt"], prog_name="longshore", standalone_mode=False)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["ps", "--formt", "x"], 125, "Error: unknown flag: --formt (did you mean --format?); see 'longshore ps --help'\n"),
        (["ps", "extra"], 1, "Error: Got unexpected extra argument (extra); see 'longshore ps --help'\n"),
        (["rename", "a"], 1, "Error: longshore rename needs CONTAINER NEW_NAME; see 'longshore rename --help'\n"),
        (["run", "-m", "1q", "x"], 125, "for --memory"),
        (["-H", "foo://x", "ps"], 1, "Error: cannot use the host 'foo://x' (write unix:///path, tcp://address:port or ssh://user@host)\n"),
        (["-H", "unix:///nonexistent", "run", "x"], 125, "is longshored running?"),
        (["container", "run", "--bogus"], 125, "unknown flag: --bogus"),
        (["-H", "unix:///nonexistent", "container", "create", "x"], 125, "is longshored running?"),
    ],
)  # fmt: skip
def test_one_line_and_dockers_exit_codes(arguments: list[str], code: int, told: str) -> None:
    program = "from longshore.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_short_command_imports_little() -> None:
    """Start-up time: what `ps` must not pull in."""
    program = (
        "import sys; from longshore.cli import main, listing, output, client\n"
        "heavy = {'http.client', 'urllib.request', 'asyncio', 'rich', 'msgspec', 'ssl', 'subprocess', 'tarfile', 'email',"
        " 'csv', 'termios', 'longshore.cli.run', 'longshore.cli.template', 'aiohttp', 'dataclasses', 'zipfile'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def commands(group: LazyGroup, path: str = "longshore") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name in group.list_commands(click.Context(group)):
        each = group.get_command(click.Context(group), name)
        assert each is not None
        found[f"{path} {name}"] = each
        if isinstance(each, LazyGroup):
            found |= commands(each, f"{path} {name}")
    return found


def test_every_command_is_there_and_every_flag_says_what_it_does() -> None:
    assert isinstance(cli, LazyGroup)
    found = commands(cli)
    assert len(found) > len(COMMANDS) + 40
    silent = [
        f"{name} {parameter.opts[-1]}"
        for name, each in found.items()
        for parameter in each.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert not silent
    assert not [name for name, each in found.items() if not each.get_short_help_str()]


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        ("", b"\x10\x11"),
        ("ctrl-a,b", b"\x01b"),
        ("ctrl-[", b"\x1b"),
        ("ctrl-@,ctrl-_", b"\0\x1f"),
        ("x,y,z", b"xyz"),
    ],
)
def test_detach_keys(keys: str, sent: bytes) -> None:
    assert detach_keys(keys) == sent


@pytest.mark.parametrize("keys", ["ctrl-", "ab", "ctrl-1", "a,,b", "é"])
def test_bad_detach_keys_are_refused(keys: str) -> None:
    with pytest.raises(FlagError, match="--detach-keys"):
        detach_keys(keys)


# Completion


def offered(*words: str) -> list[str]:
    complete = ShellComplete(cli, {}, "longshore", "_LONGSHORE_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


def test_the_shell_is_offered_commands_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSHORE_HOST", "unix:///nonexistent/socket")
    assert sorted(offered("st")) == ["start", "stats", "stop"]
    assert offered("container", "pau") == ["pause"]
    assert "--format" in offered("ps", "--fo")
    assert offered("run", "--pull", "") == ["always", "missing", "never"]
    assert offered("inspect", "--type", "v") == ["volume"]
    assert offered("stop", "") == []  # no daemon: nothing, and no complaint


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    program = "from longshore.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "completion", shell], capture_output=True, text=True, check=True
    )
    assert "_LONGSHORE_COMPLETE" in done.stdout
    bad = subprocess.run(
        [sys.executable, "-c", program, "completion", "tcsh"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 1
    assert "there is for bash, fish, zsh" in bad.stderr


def test_bash_itself_completes(tmp_path: Path) -> None:
    """The script in a real bash, with our command first in PATH."""
    (tmp_path / "longshore").symlink_to(Path(sys.executable).parent / "longshore")
    script = (
        "source <(longshore completion bash); COMP_WORDS=(longshore unp); COMP_CWORD=1; "
        '_longshore_completion longshore; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.stdout.split() == ["unpause"], done
