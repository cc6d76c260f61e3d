"""`make suites-runc`: runc's integration suite, unmodified, with Debian's runc and with longshore-oci.

python -m tests.suites.runc [--suite 1.1.15] [--runtime ours|runc|both] [FILE…]; compares by the name of the test and
fails when something passes with runc and not with ours. The texts of all runs stay in build/suites/results.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.suites.runc import materials, run
from tests.suites.runc.report import Comparison, print_report


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.suites.runc", description=__doc__)
    parser.add_argument("--suite", default="1.1.15", help="release of runc whose suite runs")
    parser.add_argument("--runtime", choices=("ours", "runc", "both"), default="both")
    parser.add_argument(
        "--runc", default=os.environ.get("RUNC_REFERENCE", ""), help="the runc to compare with"
    )
    parser.add_argument("--filter", default="", help="only tests whose name matches")
    parser.add_argument("--file-timeout", type=int, default=900, metavar="SECONDS")
    parser.add_argument("--again", action="store_true", help="keep the results of runc from the last run")
    parser.add_argument("files", nargs="*", help="names like run or run.bats; all when empty")
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("runc's suite needs root")
    folder = materials.suite(arguments.suite) / "tests/integration"
    commands = materials.commands()
    runtimes = {
        "runc": Path(arguments.runc) if arguments.runc else materials.reference_runc(),
        "ours": materials.CHECKOUT / ".venv/bin/longshore-oci",
    }
    if arguments.runtime != "both":
        runtimes = {arguments.runtime: runtimes[arguments.runtime]}
    wanted = [name.removesuffix(".bats") for name in arguments.files]
    files = [file for file in sorted(folder.glob("*.bats")) if not wanted or file.stem in wanted]
    results = materials.PLACE / "results" / arguments.suite
    comparison = Comparison({name: run.version(path) for name, path in runtimes.items()})
    for file in files:
        for name, runtime in runtimes.items():
            kept = results / name / f"{file.stem}.tap"
            if not (arguments.again and name == "runc" and kept.exists()):
                kept.parent.mkdir(parents=True, exist_ok=True)
                text = run.run_file(
                    file, runtime, commands, deadline=arguments.file_timeout, only=arguments.filter
                )
                kept.write_text(text)
            comparison.add(file.stem, name, run.names(file), run.parse_tap(kept.read_text()))
        print(comparison.line(file.stem), flush=True)
    return print_report(comparison)


if __name__ == "__main__":
    sys.exit(main())
