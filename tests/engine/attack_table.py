"""The table of attacks: each row of the list, the tests that try it, and what they would notice.

    python -m tests.engine.attack_table            prints docs/reference/attacks.md
    python -m tests.engine.attack_table --write    writes it
    python -m tests.engine.attack_table --run      runs the tests (as root) and prints row, test, result

The rows are here; the tests are found by their names, `test_attack_NN_…`, so that none can be claimed that is not there.
"""

import ast
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = ROOT / "tests"
PAGE = ROOT / "docs/reference/attacks.md"

ROWS: dict[int, tuple[str, str]] = {
    1: ("Overwriting the runtime through its exe link", "CVE-2019-5736"),
    2: ("A leaked descriptor as working directory or program", "CVE-2024-21626"),
    3: ("Masked paths behind a swapped /dev/null", "CVE-2025-31133"),
    4: ("A race for the console's mount point", "CVE-2025-52565"),
    5: ("Labels and settings written into a fake procfs", "CVE-2025-52881, CVE-2019-19921, CVE-2023-27561"),
    6: ("An image that ships /dev as a link", "CVE-2026-41579, CVE-2026-47766"),
    7: ("Names and links in archives that lead outside", "CVE-2026-17106, CVE-2025-4517"),
    8: ("Paths that a container renames while we copy", "CVE-2018-15664, CVE-2026-41568, CVE-2026-42306"),
    9: ("Code of the container run by the host's side", "CVE-2019-14271, CVE-2026-41567"),
    10: ("A policy hook that does not see the body", "CVE-2024-41110, CVE-2026-34040"),
    11: ("An unauthenticated API; DNS rebinding; web pages", "Docker's documentation, protect access"),
    12: ("A firewall reload that exposes containers", "CVE-2025-54388, CVE-2025-54410"),
    13: ("release_agent of cgroup v1", "CVE-2022-0492"),
    14: ("Settings smuggled in sysctls, labels and VOLUMEs", "CVE-2022-0811, CVE-2026-53488, CVE-2022-23648"),
    15: (
        "Names that are numbers, hostile passwd and group files",
        "CVE-2026-46680, CVE-2026-47262, CVE-2024-9676",
    ),
    16: ("Build mounts that reach the host", "CVE-2024-9407, CVE-2024-11218, CVE-2024-23651"),
    17: ("An internal network that leaks by DNS", "CVE-2024-29018"),
    18: ("Kernel surface behind socket families", "CVE-2026-31431"),
    19: ("Small requests, large costs", "CVE-2022-31030"),
    20: ("A pulled image that poisons the build cache", "CVE-2024-24557"),
    21: ("Registries that lie or collect credentials", "CVE-2020-15157"),
}
WITHOUT: dict[int, str] = {
    10: "the engine has no such hook: nothing can be skipped",
    17: "the engine runs no DNS server yet: the tests come with it",
}


@dataclass(frozen=True, slots=True)
class Attack:
    row: int
    path: Path
    name: str
    reason: str  # the sentence of its docstring that says on which engine it fails

    @property
    def words(self) -> str:
        return re.sub(r"^test_attack_\d+_", "", self.name).replace("_", " ")


def attacks(folder: Path = TESTS) -> Iterator[Attack]:
    """Every test of an attack below a folder, by row, file and place in the file."""
    found: list[tuple[int, str, int, Attack]] = []
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text()
        if "test_attack_" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if match := re.match(r"test_attack_(\d\d)_", node.name):
                row, attack = int(match[1]), Attack(int(match[1]), path, node.name, _reason(node))
                found.append((row, str(path), node.lineno, attack))
    return (attack for *_, attack in sorted(found, key=lambda each: each[:3]))


def _reason(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    text = " ".join((ast.get_docstring(node) or "").split())
    match = re.search(r"Fails (?:when|with|without)[^.]*(?:\.\w[^.]*)*(?:\.|$)", text)
    return match[0].rstrip(".") if match else ""


def page() -> str:
    """The reference page in Markdown."""
    lines = [
        "# Attacks the engine withstands",
        "",
        "Each row is an attack on container engines that has worked somewhere, and the tests that try it on ours. The",
        "last column says on which engine the test fails; `python -m tests.engine.attack_defences` takes the defences away",
        "one at a time, in a copy of the source, and shows that the tests notice.",
        "",
        "This page is written by `python -m tests.engine.attack_table --write`; with `--run` the same program runs the",
        "tests and prints the results. `make suites-attacks` tries each race of row 8 ten thousand times.",
        "",
        "| # | attack | source |",
        "|---|---|---|",
        *(f"| {row} | {title} | {source} |" for row, (title, source) in ROWS.items()),
        "",
    ]
    every = list(attacks())
    for row, (title, _source) in ROWS.items():
        lines += [f"## {row}. {title}", ""]
        own = [attack for attack in every if attack.row == row]
        if not own:
            lines += [f"No test: {WITHOUT[row]}.", ""]
            continue
        lines += ["| test | file | notices |", "|---|---|---|"]
        for attack in own:
            path = attack.path.relative_to(ROOT)
            lines.append(f"| {attack.words} | `{path}` | {attack.reason.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def results(report: Path) -> Mapping[str, Counter[str]]:
    """By name of a test function: how many of its cases passed, failed and were skipped, from pytest's JUnit file."""
    found: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "").partition("[")[0]
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found.setdefault(name, Counter())[kind] += 1
    return found


def run() -> int:
    """Run every attack and print the table. Returns pytest's exit code."""
    every = list(attacks())
    files = sorted({str(attack.path) for attack in every})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-k", "test_attack", f"--junitxml={report}", *files]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        by_name = results(report)
    for row, (title, _source) in ROWS.items():
        print(f"\n{row:2}  {title}")
        own = [attack for attack in every if attack.row == row]
        for attack in own:
            counts = by_name.get(attack.name, Counter())
            told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "did not run"
            print(f"      {told:12} {attack.words}")
        if not own:
            print(f"      no test: {WITHOUT[row]}")
    return code


def main(words: list[str]) -> int:
    if words == ["--run"]:
        return run()
    if words == ["--write"]:
        PAGE.write_text(page())
    else:
        print(page(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
