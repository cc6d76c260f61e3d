"""The comparison as tables: per file, and every test that is not passed with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.suites.runc.run import Result

_VERDICTS = ("passed", "failed", "skipped", "missing")
_MISSING = Result("missing", "the file ended before it")


@dataclass(slots=True)
class Comparison:
    runtimes: dict[str, str]  # our word for it -> what it says of itself
    files: dict[str, dict[str, dict[str, Result]]] = field(
        default_factory=dict[str, dict[str, dict[str, Result]]]
    )

    def add(self, file: str, runtime: str, declared: Iterable[str], found: dict[str, Result]) -> None:
        tests = {name: found.get(name) or found.get(_plain(name)) or _MISSING for name in declared}
        self.files.setdefault(file, {})[runtime] = tests

    def line(self, file: str) -> str:
        parts = [f"{file:24}"]
        for runtime, tests in self.files[file].items():
            parts.append(f"{runtime} {_count(tests.values())}")
        return "  ".join(parts)

    def total(self, runtime: str) -> Counter[str]:
        return Counter(
            result.verdict for file in self.files.values() for result in file.get(runtime, {}).values()
        )

    def lost(self) -> list[tuple[str, str]]:
        """What passes with runc and does not with ours."""
        return [
            (file, name)
            for file, runs in self.files.items()
            for name, result in runs.get("runc", {}).items()
            if result.verdict == "passed" and runs.get("ours", {}).get(name, result).verdict != "passed"
        ]


def _plain(name: str) -> str:
    return name.replace('\\"', '"').replace("\\$", "$")


def _count(results: Iterable[Result]) -> str:
    found = Counter(result.verdict for result in results)
    return " ".join(
        f"{verdict} {found[verdict]:3}" for verdict in _VERDICTS if found[verdict] or verdict != "missing"
    )


def print_report(comparison: Comparison) -> int:
    """Print everything; 1 when something passes with runc and not with ours, else 0."""
    for runtime, says in comparison.runtimes.items():
        print(f"\n{runtime}: {says}")
        for file, runs in comparison.files.items():
            for name, result in runs.get(runtime, {}).items():
                if result.verdict in ("failed", "missing"):
                    print(f"  {file}: {name}: {result.verdict}: {_short(result.reason)}")
    print("\nskipped:")
    for file, runs in comparison.files.items():
        for name in next(iter(runs.values())):
            skips = {
                runtime: run[name].reason for runtime, run in runs.items() if run[name].verdict == "skipped"
            }
            if skips:
                who = "" if len(skips) == len(runs) else f" (only with {', '.join(skips)})"
                print(f"  {file}: {name}: {next(iter(skips.values()))}{who}")
    print("\ntable by file")
    for file in comparison.files:
        print(comparison.line(file))
    for runtime in comparison.runtimes:
        total = comparison.total(runtime)
        print(
            f"{runtime}: "
            + ", ".join(f"{total[verdict]} {verdict}" for verdict in _VERDICTS)
            + f" of {total.total()}"
        )
    if len(comparison.runtimes) < 2:
        return 0
    lost = comparison.lost()
    print(f"passed with runc and not with ours: {len(lost)}")
    for file, name in lost:
        print(f"  {file}: {name}")
    return 1 if lost else 0


def _short(reason: str) -> str:
    """Where and what: the first two lines of bats, and the last that says something."""
    lines = [line for line in reason.splitlines() if line.strip()]
    return " | ".join([*lines[:2], *(lines[-1:] if len(lines) > 2 else [])])[:300]
