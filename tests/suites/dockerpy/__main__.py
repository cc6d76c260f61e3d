"""`make suites-dockerpy`: docker-py's own integration suite, unmodified, against our engine or Debian's dockerd.

Exit code 1 when our engine does not pass a test that is not in `expected.txt`.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.suites.dockerpy import engines, source, table

ROOT = Path(__file__).resolve().parents[3]
MARK = "LONGSHORE_SUITE_NAMESPACE"


def main() -> int:
    arguments = parse()
    if os.geteuid() != 0:
        sys.exit("the suite needs root: it starts an engine")
    suite = source.prepare(ROOT / "build/dockerpy", arguments.release, arguments.source)
    if MARK not in os.environ:
        return enter_namespaces()
    files = chosen(source.files(suite), arguments.files)
    outcomes: list[table.File] = []
    with engines.running(arguments.engine, ROOT, arguments.verbose) as host:
        for file in files:
            outcomes.append(source.run(suite, file, host, arguments.keyword))
            print(table.line(outcomes[-1]), file=sys.stderr, flush=True)
    print(table.render(arguments.engine, suite.release, outcomes))
    if arguments.json:
        arguments.json.write_text(table.as_json(outcomes))
    expected = table.expected(Path(__file__).with_name("expected.txt"))
    surprises = table.surprises(outcomes, expected) if arguments.engine == "longshore" else []
    for test in surprises:
        print(f"not expected to fail: {test}")
    return 1 if surprises else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.suites.dockerpy", description=__doc__)
    parser.add_argument("files", nargs="*", help="files of tests/integration, default: all without Swarm")
    parser.add_argument("--engine", choices=("longshore", "docker"), default="longshore")
    parser.add_argument("--release", default=source.RELEASE, help="git tag of docker-py")
    parser.add_argument(
        "--source",
        default=os.environ.get("DOCKERPY_SOURCE", source.REPOSITORY),
        help="git repository, or an unpacked checkout, of docker-py (also $DOCKERPY_SOURCE)",
    )
    parser.add_argument("-k", dest="keyword", default="", help="as pytest's -k")
    parser.add_argument("--json", type=Path, help="write the outcome of each test here")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the engine's log at the end")
    return parser.parse_args()


def enter_namespaces() -> int:
    """A network of its own and a shared mount tree that ends with the run; nothing of the machine is touched."""
    inside = 'ip link set lo up && exec "$@"'
    return subprocess.run(
        ["unshare", "--net", "--mount", "--propagation", "shared", "sh", "-c", inside, "sh",
         sys.executable, "-m", "tests.suites.dockerpy", *sys.argv[1:]],
        cwd=ROOT, env=os.environ | {MARK: "1"},
    ).returncode  # fmt: skip


def chosen(known: list[str], wanted: list[str]) -> list[str]:
    if not wanted:
        return [name for name in known if not source.needs_swarm(name)]
    names = [name.removeprefix("tests/integration/").removesuffix(".py") for name in wanted]
    if missing := sorted(set(names) - set(known)):
        sys.exit(f"no such file in the suite: {', '.join(missing)}; it has {', '.join(known)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
