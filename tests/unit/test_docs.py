"""The documentation holds: links lead somewhere, commands and flags exist, tables have every row, pages are current."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
import yaml
from click.testing import CliRunner

from longshore.cli.main import cli as longshore
from longshore.daemon.install import parser as installer
from longshore.daemon.settings import OPTIONS, Settings
from pymachine.main import cli as pymachine

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "roles/*/README.md", "engine/README.md", "machine/README.md")
    for path in ROOT.glob(pattern)
)
DECISIONS = ROOT / "docs/decisions"
LINK = re.compile(r"\]\(([^)\s#]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """GitHub's: lower case, spaces to hyphens, other punctuation gone."""
    titles = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", names(PAGES))
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    broken: list[str] = []
    for target, anchor in LINK.findall(prose(page)):
        if "://" in target:
            continue
        found = (page.parent / target).resolve() if target else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target + anchor)
    assert not broken


def test_every_page_is_linked_from_the_readme_or_a_page() -> None:
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target, _ in LINK.findall(prose(page))
        if target and "://" not in target
    }
    alone = [page for page in PAGES if page.is_relative_to(ROOT / "docs") and page not in linked]
    assert [page for page in alone if page.parent != DECISIONS] == []


# Commands


def command_lines(page: Path) -> Iterator[list[str]]:
    """What a reader could type: lines of code blocks, without the prompt, and code in the text."""
    text = page.read_text()
    blocks = "\n".join(FENCE.findall(text)).replace("\\\n", " ").replace("\\|", "|")
    lines = [re.sub(r"^[$#] ", "", line) for line in blocks.splitlines()]
    for line in [*lines, *CODE.findall(prose(page).replace("\\|", "|"))]:
        for part in re.split(r"\$\(|[;|&)]", line):
            try:
                yield shlex.split(part, comments=True)
            except ValueError:
                pass  # half of a quoted string: no command of ours


def lines_of(program: str) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for page in PAGES:
        for words in command_lines(page):
            if program in words[:3] and len(words) > words.index(program) + 1:
                found.append((str(page.relative_to(ROOT)), words[words.index(program) + 1 :]))
    return found


@functools.cache
def driver_flags() -> frozenset[str]:
    """Those that `pymachine create` has only beside `--driver`; all of them take a value."""
    text = "".join(
        CliRunner().invoke(pymachine, ["create", "--driver", driver, "--help"]).output
        for driver in ("local", "generic", "none")
    )
    return frozenset(re.findall(r"--(?:local|generic|url)[a-z-]*", text))


def judge(command: click.Command, words: list[str]) -> str:
    """What is wrong with a command line; "" when nothing is. Arguments are not looked at."""
    options = {
        name: parameter
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    words = list(words)
    while words:
        word = words.pop(0)
        if word.startswith("-") and len(word) > 1:
            name = word.partition("=")[0]
            if name in ("--help", "-h", "--version"):
                continue
            if name not in options:
                if name in driver_flags() and words:
                    words.pop(0)
                    continue
                together = not name.startswith("--") and all(f"-{letter}" in options for letter in name[1:])
                if not together:
                    return f"{command.name} has no {name}"
                continue
            option = options[name]
            if isinstance(option, click.Option) and not option.is_flag and "=" not in word and words:
                words.pop(0)
        elif isinstance(command, click.Group):
            if not re.fullmatch(r"[a-z][a-z-]*", word):
                return ""  # prose or output: `longshore …`, a table's heading
            nested = command.get_command(click.Context(command), word)
            return judge(nested, words) if nested else f"no such command: {word}"
        elif (
            command.allow_interspersed_args is False
            or command.context_settings.get("allow_interspersed_args") is False
        ):
            return ""  # the rest belongs to the program that runs
    return ""


@pytest.mark.parametrize(("program", "group"), [("longshore", longshore), ("pymachine", pymachine)])
def test_commands_and_flags_exist(program: str, group: click.Group) -> None:
    lines = lines_of(program)
    assert len(lines) > 10
    wrong = [(page, " ".join(words), problem) for page, words in lines if (problem := judge(group, words))]
    assert not wrong


def test_the_judge_sees_what_does_not_exist() -> None:
    assert judge(longshore, ["nosuch"])
    assert judge(longshore, ["ps", "--nosuch"])
    assert not judge(longshore, ["-H", "unix:///x", "ps", "-aq", "--filter", "name=x"])


def test_the_installers_commands_exist() -> None:
    (commands,) = [
        action for action in installer()._actions if isinstance(action, argparse._SubParsersAction)
    ]
    words = [line for program in ("longshore-setup",) for _, line in lines_of(program)]
    words += [line[1:] for _, line in lines_of("python3") if line[0].endswith(".pyz")]
    used = {next(word for word in line if not word.startswith("-")) for line in words if line[1:] or line}
    assert used
    assert used <= set(commands.choices)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {line[0] for _, line in lines_of("make") if re.fullmatch(r"[a-z-]+", line[0])}
    assert {"demo", "test", "bundle"} <= used <= targets


def test_named_files_of_the_checkout_exist() -> None:
    pattern = re.compile(r"\b(?:playbooks|inventories|tests|tools|roles)/[\w./-]*\w")
    missing = {
        name
        for page in PAGES
        for words in command_lines(page)
        for word in words
        for name in pattern.findall(word)
        if not (ROOT / name).exists() and not name.startswith("inventories/mine") and "://" not in word
    }
    assert not missing


# Tables


def test_every_setting_of_the_daemon_is_described_with_its_default() -> None:
    rows = [line for line in (ROOT / "docs/engine.md").read_text().splitlines() if line.startswith("| `-")]
    for option in OPTIONS:
        (row,) = [row for row in rows if f"`{option.key}`" in row.split("|")[2]]
        for flag in option.flags:
            assert f"`{flag}`" in row
        default = Settings.__dataclass_fields__[option.attribute].default
        if default and option.kind not in (tuple, dict):
            assert f"`{str(default).lower() if option.kind is bool else default}`" in row
    assert f"`{Settings().hosts[0]}`" in "".join(rows)


def test_every_check_of_the_doctor_is_described() -> None:
    checks: set[str] = set()
    for name in ("core/doctor.py", "network/doctor.py"):
        for node in ast.walk(ast.parse((ROOT / "engine/src/longshore" / name).read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("Check", "Finding")
            ):
                first = node.args[0]
                assert isinstance(first, ast.Constant)
                checks.add(str(first.value))
    assert len(checks) > 10
    rows = re.findall(r"^\| ([a-z0-9 ]+) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert checks <= set(rows)


def test_every_command_is_described() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    table = {
        name
        for line in page.splitlines()
        if line.startswith("| `")
        for name in CODE.findall(line.split("|")[1])
    }
    commands = set(longshore.list_commands(click.Context(longshore)))
    assert commands <= {name.split()[0] for name in table}


@pytest.mark.parametrize("role", ["app", "engine"])
def test_role_variables_are_described(role: str) -> None:
    spec = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())
    options = spec["argument_specs"]["main"]["options"]
    page = (ROOT / f"roles/{role}/README.md").read_text()
    assert [name for name in options if f"| `{name}` |" not in page] == []


def test_the_benchs_rows_are_those_of_the_readme() -> None:
    tree = ast.parse((ROOT / "tests/bench/__main__.py").read_text())
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Row"
    ]
    titles = [node.args[0].value for node in calls if isinstance(node.args[0], ast.Constant)]
    _, _, rest = (ROOT / "README.md").read_text().partition("<!-- bench: begin")
    rows = [
        line.split("|")[1].strip()
        for line in rest.partition("<!-- bench: end")[0].splitlines()[3:]
        if line.startswith("|")
    ]
    assert titles
    assert [title for title in titles if title not in rows] == []


# Generated pages, decisions


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_api_page_is_current() -> None:
    tool = load_tool("api_reference")
    wanted = tool.page(tool.collect_routes(), tool.read_operations())
    assert tool.PAGE.read_text() == wanted, "run .venv/bin/python tools/api_reference.py"


def test_the_command_line_page_is_current() -> None:
    tool = load_tool("cli_reference")
    assert tool.PAGE.read_text() == tool.page(), "run .venv/bin/python tools/cli_reference.py"


def test_a_handler_that_only_refuses_is_not_called_served() -> None:
    tool = load_tool("api_reference")

    async def refuses() -> None:
        raise ValueError("no", hint="x")  # type: ignore[call-arg]

    async def serves() -> str:
        if not tool:
            raise ValueError("no")
        return "yes"

    assert tool.refusal(refuses) == "no"
    assert tool.refusal(serves) == ""


def test_decisions_are_numbered_and_found() -> None:
    files = sorted(path.name for path in DECISIONS.glob("*.md"))
    numbers = [int(name[:4]) for name in files]
    assert numbers == sorted(set(numbers))  # one that is on its way may be missing, but none is given twice
    sources = [*(ROOT / "engine/src").rglob("*.py"), *(ROOT / "machine/src").rglob("*.py"), *PAGES]
    named = {found for path in sources for found in re.findall(r"decisions/([\w-]+\.md)", path.read_text())}
    assert named - {"NNNN-title.md"} <= set(files)
