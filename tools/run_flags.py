"""docs/reference/run-flags.md: each flag of `docker run` beside the tests that cover it.

The tests say so themselves, by the marker `flag` ("@pytest.mark.flag('--memory')"); the flags come from the
`--help` of every docker CLI on this machine, together with those that the page has already. With `--check` nothing is
written. The exit code is 1 when a flag that means something on Linux has no test, or when the page is out of date.
"""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reference/run-flags.md"
TESTS = "tests/engine/compat"
WINDOWS = {
    "--cpu-count",
    "--cpu-percent",
    "--io-maxbandwidth",
    "--io-maxiops",
}  # "(Windows only)" in the help
HEAD = """# The flags of `docker run` and their tests

Made by `tools/run_flags.py` from the markers of the test suite; a unit test keeps it in step. A test runs the flag with
the stock docker CLI, or sends what newer CLIs send, and looks at the effect inside the container.

| flag | tests |
|---|---|
"""


class _Collector:
    """A pytest plugin that notes the markers and runs nothing."""

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            name = item.nodeid.partition("[")[0].removeprefix(f"{TESTS}/")
            for marker in item.iter_markers("flag"):
                for flag in marker.args:
                    self.tests.setdefault(flag, set()).add(name)


def collected() -> dict[str, set[str]]:
    """The names of the tests by flag."""
    collector = _Collector()
    files = sorted(str(path) for path in (ROOT / TESTS).glob("test_run_flags*.py"))
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = pytest.main(["--collect-only", "-qq", f"--rootdir={ROOT}", *files], plugins=[collector])
    if code != 0:
        raise SystemExit(f"the tests cannot be collected: {code!r}\n{told.getvalue()}")
    return collector.tests


def help_texts() -> Iterator[str]:
    """Of every docker CLI here, ours not among them."""
    for path in (shutil.which("docker"), ROOT / "build/docker/usr/bin/docker"):
        if path and Path(path).exists():
            yield subprocess.run([path, "run", "--help"], capture_output=True, text=True, check=True).stdout


def flags_of(text: str) -> set[str]:
    return set(re.findall(r"^ +(?:-[a-zA-Z], )?(--[a-z0-9-]+)", text, re.MULTILINE))


def known_flags(page: str) -> set[str]:
    """The flags that the page has rows for."""
    return set(re.findall(r"^\| `(--[a-z0-9-]+)` \|", page, re.MULTILINE))


def render(flags: set[str], tests: dict[str, set[str]]) -> str:
    rows: list[str] = []
    for flag in sorted(flags):
        names = ", ".join(f"`{name}`" for name in sorted(tests.get(flag, ())))
        rows.append(f"| `{flag}` | {names or ('Windows only' if flag in WINDOWS else '**none**')} |")
    return HEAD + "\n".join(rows) + "\n"


def main(arguments: list[str]) -> int:
    before = PAGE.read_text() if PAGE.exists() else ""
    flags = known_flags(before).union(*map(flags_of, help_texts()))
    tests = collected()
    text = render(flags, tests)
    missing = sorted(flag for flag in flags if flag not in tests and flag not in WINDOWS)
    if missing:
        print(f"flags without a test: {', '.join(missing)}")
    if unknown := sorted(set(tests) - flags - {"--net"}):
        print(f"markers of flags that no docker CLI has: {', '.join(unknown)}")
    if "--check" not in arguments:
        PAGE.write_text(text)
    elif text != before:
        print(f"{PAGE.relative_to(ROOT)} is out of date: .venv/bin/python tools/run_flags.py")
        return 1
    return 1 if missing or unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
