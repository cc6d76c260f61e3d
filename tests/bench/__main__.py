"""`make bench`: our engine beside Debian's docker.io, in one run, as ratios.

One row has the design's prototype in the second column: the floor of what a start can be (`floor.py`). Exit code 1 when a
target is missed. The machines are shared and noisy: read the ratios, not the figures.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench import api_rows, build_rows, floor, image_rows, registry_rows, rows
from tests.bench.peers import Engine, both


@dataclass(frozen=True)
class Row:
    title: str
    unit: str
    target: float  # of ours / Docker's
    measure: Callable[[tuple[Engine, Engine]], list[float]]
    more_is_better: bool = False
    limit: float = float("inf")  # of ours, whatever Docker's is

    def met(self, ours: float, ratio: float) -> bool:
        return ours <= self.limit and (ratio >= self.target if self.more_is_better else ratio <= self.target)


ROWS = (
    Row("API start, bridge network", "ms", 1 / 8, lambda both: rows.alternately(both, 15, rows.api_start)),
    Row("API start, and the prototype's", "ms", 2, lambda both: floor.beside(both[0], 15)),
    Row(
        "docker run --rm busybox true", "ms", 1 / 3, lambda both: rows.alternately(both, 10, rows.docker_run)
    ),
    Row("docker exec true", "ms", 1 / 2, lambda both: rows.alternately(both, 5, rows.docker_exec)),
    Row("memory per idle container", "MB", 1 / 3, lambda both: rows.crowd(both).memory),
    Row("100 starts by 8 clients", "/s", 6, lambda both: rows.crowd(both).rate, True),
    Row("exec, API", "ms", 1 / 3, lambda both: rows.alternately(both, 5, api_rows.exec_api)),
    Row("attach round trip", "ms", 1, lambda both: rows.alternately(both, 3, api_rows.attach_round_trip)),
    Row(
        "output of 200 MB into the log",
        "MB/s",
        1,
        lambda both: rows.alternately(both, 1, rows.log_rate),
        True,
    ),
    Row("50 MB of log, API", "MB/s", 1, lambda both: rows.alternately(both, 1, rows.log_read_rate), True),
    Row("stats of 10 containers", "ms", 1, lambda both: rows.alternately(both, 1, rows.stats_of_ten)),
    Row("list of 1,000 containers", "ms", 1, lambda both: rows.alternately(both, 1, api_rows.list_thousand)),
    Row(
        "pull of 200 MB of Debian",
        "s",
        1,
        lambda both: rows.alternately(both, 3, registry_rows.pull_debian),
    ),
    Row(
        "peak memory, pull of 1 GB",
        "MB",
        1,
        lambda both: rows.alternately(both, 1, registry_rows.memory_of_a_large_pull),
        limit=150,
    ),
    Row(
        "cached build, 20 steps", "ms", 1 / 2, lambda both: rows.alternately(both, 5, build_rows.cached_build)
    ),
    Row("one uncached RUN", "ms", 1 / 4, lambda both: rows.alternately(both, 3, build_rows.uncached_run)),
    Row("push of 200 MB of Debian", "s", 1, lambda both: rows.alternately(both, 2, image_rows.push)),
    Row("load of 200 MB of Debian", "s", 1, lambda both: rows.alternately(both, 2, image_rows.load)),
    Row("save of 200 MB of Debian", "s", 1, lambda both: rows.alternately(both, 2, image_rows.save)),
)


def main() -> int:
    missed = 0
    print(f"{'':<32} {'longshore':>10} {'docker':>10}       {'ratio':>7} {'target':>9}")
    with both() as engines:
        for row in ROWS:
            ours, theirs = row.measure(engines)
            ratio = ours / theirs
            met = row.met(ours, ratio)
            missed += not met
            sign = ">=" if row.more_is_better else "<="
            print(
                f"{row.title:<32} {ours:10.2f} {theirs:10.2f} {row.unit:<5} {ratio:7.3f} {sign} {row.target:5.3f}"
                f"  {'met' if met else 'MISSED'}",
                flush=True,
            )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
