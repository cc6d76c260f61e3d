"""What came out, as a table for people and as JSON for comparison. Pure."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    test: str  # Class::test_name
    state: str  # passed, failed, skipped
    reason: str = ""


@dataclass(frozen=True)
class File:
    name: str
    outcomes: tuple[Outcome, ...]
    seconds: float

    def count(self, state: str) -> int:
        return sum(outcome.state == state for outcome in self.outcomes)


def line(file: File) -> str:
    return (
        f"{file.name:<28} {file.count('passed'):>6} {file.count('failed'):>6} {file.count('skipped'):>7}"
        f" {file.seconds:>6.0f} s"
    )


def render(engine: str, release: str, files: Sequence[File]) -> str:
    """One line per file, the sums, then the reason of everything that is not passed."""
    title = f"docker-py {release} on {engine}"
    lines = [title, f"{'file':<28} {'passed':>6} {'failed':>6} {'skipped':>7}"]
    lines += [line(file) for file in files]
    total = File("total", tuple(o for file in files for o in file.outcomes), sum(f.seconds for f in files))
    lines += [line(total), ""]
    for file in files:
        for outcome in file.outcomes:
            if outcome.state != "passed":
                lines.append(f"{outcome.state:<8} {file.name}::{outcome.test}: {outcome.reason[:300]}")
    return "\n".join(lines)


def as_json(files: Iterable[File]) -> str:
    return json.dumps({file.name: [asdict(outcome) for outcome in file.outcomes] for file in files}, indent=1)


def expected(path: Path) -> set[str]:
    """Tests that need not pass, one `file::Class::test` per line; what follows a # is the reason."""
    lines = (text.partition("#")[0].strip() for text in path.read_text().splitlines())
    return {text for text in lines if text}


def surprises(files: Iterable[File], known: set[str]) -> list[str]:
    """Failed tests that are not expected to."""
    names = (
        f"{file.name}::{outcome.test}"
        for file in files
        for outcome in file.outcomes
        if outcome.state == "failed"
    )
    return [name for name in names if name not in known]
