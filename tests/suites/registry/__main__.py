"""Every point against our registry and against Debian's docker-registry; writes docs/reference/registry-conformance.md.

    python -m tests.suites.registry [--check] [NAME...]

Exit code 1 when ours fails a point. `--check` leaves the page alone.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.suites.registry.points import all_points
from tests.suites.registry.servers import DEBIAN, debian, ours
from tests.suites.registry.wire import Point, Registry, Repository

PAGE = Path(__file__).resolve().parents[3] / "docs/reference/registry-conformance.md"
HEAD = """\
# The registry and the distribution specification, point by point

<!-- Written by `make suites-registry` (tests/suites/registry); change the points there and run it again. -->

Every MUST and SHOULD of the [OCI distribution specification](https://github.com/opencontainers/distribution-spec)
1.1 that binds a registry, and the MAYs that clients use, each as one test, run against `longshore registry serve` and
against Debian's docker-registry {version} (with `storage.delete.enabled`, otherwise as it comes). The same points for
our own server are a part of `make test`.
"""


def failure(point: Point, address: str) -> str:
    """ "" when the point is met, else what is wrong, in one line."""
    registry = Registry(address)
    try:
        point.check(Repository(registry))
    except Exception as error:  # a reply without JSON where there has to be some is a failure like any other
        text = " ".join(str(error).split())
        return (
            f"{type(error).__name__}: {text}"[:300] if not isinstance(error, AssertionError) else text[:300]
        )
    finally:
        registry.close()
    return ""


def cell(reason: str) -> str:
    if not reason:
        return "ok"
    short = reason.partition(" (")[0]
    return "**fails**: " + short[:90].replace("|", "\\|").replace("*", "\\*")


def page(rows: list[tuple[Point, str, str]], version: str) -> str:
    total = len(rows)
    counts = [sum(1 for row in rows if row[column]) for column in (1, 2)]
    lines = [
        HEAD.format(version=version),
        "| | points | fails |",
        "|---|---|---|",
        f"| Longshore | {total} | {counts[0]} |",
        f"| docker-registry {version} | {total} | {counts[1]} |",
        "",
        "| endpoint | | demand | Longshore | docker-registry |",
        "|---|---|---|---|---|",
    ]
    for point, us, them in rows:
        demand = point.demand.replace("|", "\\|")
        lines.append(f"| {point.endpoint} | {point.level} | {demand} | {cell(us)} | {cell(them)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true", help="leave the page alone")
    options.add_argument("names", nargs="*", help="only these points")
    chosen = options.parse_args()
    points = [each for each in all_points() if not chosen.names or each.name in chosen.names]
    shown = subprocess.run([DEBIAN, "--version"], capture_output=True, text=True, check=True).stdout.split()
    version = next((word.lstrip("v") for word in shown if word.lstrip("v")[:1].isdigit()), "")
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as two,
        ours(Path(one)) as our_address,
        debian(Path(two)) as their_address,
    ):
        rows = [(each, failure(each, our_address), failure(each, their_address)) for each in points]
    for point, us, them in rows:
        if us or them:
            print(f"{point.endpoint:8} {point.level:6} {point.name}")
            for who, reason in (("longshore", us), ("docker-registry", them)):
                if reason:
                    print(f"    {who}: {reason}")
    failed = sum(1 for row in rows if row[1]), sum(1 for row in rows if row[2])
    print(f"{len(rows)} points: longshore fails {failed[0]}, docker-registry {version} fails {failed[1]}")
    if not chosen.names and not chosen.check:
        PAGE.write_text(page(rows, version))
    return 1 if failed[0] else 0


if __name__ == "__main__":
    sys.exit(main())
