"""`make suites-fuzz-images`: each of four inputs fuzzed for ten minutes with hypothesis; as root.

    python -m tests.suites.fuzz_images [--minutes 10] [--seed N] [layers|references|registries|server]...

What fails is shrunk, printed, and kept in build/fuzz-images, from where the next run begins. A layer that failed is to be
put into tests/suites/fuzz_images/seeds as NAME.tar: all runs begin from the archives there, the short ones of
`make test` too. Exit code 1 when anything failed.
"""

import argparse
import asyncio
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.strategies import SearchStrategy
from tests.suites.fuzz_images import layers, references, registries, server

KEPT = Path(__file__).resolve().parents[3] / "build/fuzz-images"
KINDS = ("layers", "references", "registries", "server")
Check = Callable[[Any, Counter[str]], None]


def campaign(
    name: str,
    strategy: SearchStrategy[Any],
    check: Check,
    seconds: float,
    first: int,
    examples: int = 500,
    *,
    rounds: int = 0,
) -> tuple[int, Counter[str], str]:
    """(examples, how they ended, the failure or ""). Rounds of `examples`, each with a seed of its own."""
    seen: Counter[str] = Counter()
    count, number, deadline = 0, first, time.monotonic() + seconds

    while time.monotonic() < deadline and not (rounds and number == first + rounds):

        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=DirectoryBasedExampleDatabase(KEPT / name),
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def once(example: Any) -> None:
            nonlocal count
            if time.monotonic() < deadline + 60:
                count += 1
                check(example, seen)

        try:
            once()
        except BaseException as failure:
            if isinstance(failure, KeyboardInterrupt):
                raise
            return count, seen, "".join(traceback.format_exception(failure))
        number += 1
    return count, seen, ""


def run(
    name: str, seconds: float, first: int, examples: int = 500, *, rounds: int = 0
) -> tuple[int, Counter[str], str]:
    """One of the four."""
    with ExitStack() as stack:
        if name == "layers":
            return campaign(name, layers.layers(), layers.check, seconds, first, examples, rounds=rounds)
        if name == "references":
            return campaign(
                name, references.texts(), references.check, seconds, first, examples, rounds=rounds
            )
        if name == "server":
            lab = stack.enter_context(server.lab())
            return campaign(name, server.requests(), lab.check, seconds, first, examples, rounds=rounds)
        loop = stack.enter_context(asyncio.Runner())
        opened = registries.lab()
        bad = loop.run(opened.__aenter__())
        stack.callback(lambda: loop.run(opened.__aexit__(None, None, None)))

        def pull(plans: Any, seen: Counter[str]) -> None:
            loop.run(bad.check(plans, seen))

        return campaign(name, registries.plans(), pull, seconds, first, examples, rounds=rounds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.suites.fuzz_images")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=" ".join(KINDS))
    options = parser.parse_args()
    failed = 0
    for name in options.kinds or KINDS:
        if name not in KINDS:
            parser.error(f"{name} is none of {', '.join(KINDS)}")
        count, seen, failure = run(name, options.minutes * 60, options.seed)
        ends = ", ".join(f"{end} {number}" for end, number in seen.most_common())
        print(
            f"{name}: {count} examples from seed {options.seed} in {options.minutes:g} minutes: {ends}",
            flush=True,
        )
        if failure:
            failed += 1
            print(failure, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
