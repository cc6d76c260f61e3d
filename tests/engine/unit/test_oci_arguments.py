"""The command line of `longshore-oci`: options in runc's manner, sizes, users, help."""

import pytest

from longshore.errors import EngineError, InvalidArgument
from longshore.oci.runtime_spec import Capabilities, Process, Spec, User
from longshore.runtime.oci_command.arguments import check_words, command_help, help_text, parse
from longshore.runtime.oci_command.commands import COMMANDS, GLOBAL
from longshore.runtime.oci_command.ending import parse_signal
from longshore.runtime.oci_command.execute import build_process
from longshore.runtime.oci_command.limits import parse_size, resources_of

BY_NAME = {command.name: command for command in COMMANDS}


def given(name: str, *words: str):  # type: ignore[no-untyped-def]
    command = BY_NAME[name]
    found = parse(command.options, words, stops=command.stops)
    check_words(command, found)
    return found


def test_options_stand_before_or_after_the_name_with_one_dash_or_two() -> None:
    for words in (("--force", "a"), ("a", "--force"), ("-f", "a"), ("-force", "a"), ("--force=true", "a")):
        found = given("delete", *words)
        assert (found.words, found.flag("force")) == (["a"], True)
    assert not given("delete", "a").flag("force")


def test_what_follows_a_program_is_its_own() -> None:
    found = given("exec", "-e", "A=1", "--env=B=2", "-t", "box", "ls", "-t", "--", "-e")
    assert found.words == ["box", "ls", "-t", "--", "-e"]
    assert found.list("env") == ["A=1", "B=2"]
    assert given("ps", "box", "-e", "-x").words == ["box", "-e", "-x"]
    assert given("update", "-r", "-", "box").text("resources") == "-"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("delete", ()),
        ("delete", ("a", "b")),
        ("delete", ("--nonsense", "a")),
        ("delete", ("--force=maybe", "a")),
        ("create", ("a", "--bundle")),
        ("create", ("a", "--preserve-fds", "x")),
        ("list", ("a",)),
    ],
)
def test_bad_words(name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument):
        given(name, *words)


def test_every_command_and_option_is_in_the_help() -> None:
    text = help_text(COMMANDS, GLOBAL)
    for command in COMMANDS:
        assert f"   {command.name} " in text
        for option in command.options:
            assert f"--{option.names[0]}" in command_help(command)


@pytest.mark.parametrize(
    ("text", "value"),
    [("67108864", 67108864), ("50M", 50 << 20), ("1gb", 1 << 30), ("2KiB", 2048), ("-1", -1)],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size("memory", text) == value


def test_limits_from_options() -> None:
    resources = resources_of(
        given("update", "box", "--memory", "-1", "--pids-limit", "5", "--cpu-share", "200")
    )
    assert resources.memory is not None and resources.cpu is not None and resources.pids is not None
    assert (resources.memory.limit, resources.memory.swap) == (-1, -1)
    assert (resources.cpu.shares, resources.pids.limit) == (200, 5)
    with pytest.raises(EngineError):
        parse_size("memory", "much")


@pytest.mark.parametrize(("text", "number"), [("15", 15), ("TERM", 15), ("sigkill", 9), ("0", 0)])
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


def test_an_exec_is_the_containers_process_with_changes() -> None:
    sets = Capabilities(bounding=("CAP_KILL",), inheritable=("CAP_KILL",))
    spec = Spec(process=Process(args=("sh",), env=("A=1",), cwd="/srv", capabilities=sets, user=User(5, 6)))
    words = ("-e", "B=2", "-u", "7", "-g", "8", "-c", "CAP_CHOWN", "box", "ls", "-l")
    process = build_process(spec, given("exec", *words))
    assert (process.args, process.env, process.cwd) == (("ls", "-l"), ("A=1", "B=2"), "/srv")
    assert (process.user.uid, process.user.gid, process.user.additional_gids) == (7, 6, (8,))
    assert process.capabilities == Capabilities(
        bounding=("CAP_KILL", "CAP_CHOWN"),
        effective=("CAP_CHOWN",),
        permitted=("CAP_CHOWN",),
        inheritable=("CAP_KILL",),
        ambient=("CAP_CHOWN",),
    )
    with pytest.raises(InvalidArgument):
        build_process(spec, given("exec", "box"))
