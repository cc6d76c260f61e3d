"""Counters in Prometheus's text format (https://prometheus.io/docs/instrumenting/exposition_formats/).

Names as distribution has them, where it has one.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager

_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What one registry counts; used from the event loop only."""

    def __init__(self) -> None:
        self._counters: Counter[tuple[str, Labels]] = Counter()
        self._buckets: dict[Labels, list[int]] = {}
        self._sums: Counter[Labels] = Counter()
        self._in_flight = 0

    @contextmanager
    def in_flight(self) -> Generator[None]:
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        self._counters[name, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]  # bytes and seconds

    def request(self, kind: str, method: str, status: int, seconds: float) -> None:
        """One answered request; `kind` is the endpoint's, so that names of repositories cost no memory."""
        method = method if method in ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE") else "other"
        labels: Labels = (("handler", kind), ("method", method.lower()))
        self._counters["registry_http_requests_total", (("code", str(status)), *labels)] += 1
        buckets = self._buckets.setdefault(labels, [0] * (len(_BOUNDS) + 1))
        buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._sums[labels] += seconds  # type: ignore[assignment]

    def render(self, gauges: Mapping[str, float]) -> str:
        """The whole page; `gauges` are values of this moment."""
        lines: list[str] = []
        for name in sorted({name for name, _ in self._counters}):
            lines.append(f"# TYPE {name} counter")
            lines += [
                f"{name}{_shown(labels)} {_number(value)}"
                for (each, labels), value in sorted(self._counters.items())
                if each == name
            ]
        name = "registry_http_request_duration_seconds"
        lines.append(f"# TYPE {name} histogram")
        for labels, buckets in sorted(self._buckets.items()):
            total = 0
            for bound, count in zip((*map(str, _BOUNDS), "+Inf"), buckets, strict=True):
                total += count
                lines.append(f"{name}_bucket{_shown((*labels, ('le', bound)))} {total}")
            lines.append(f"{name}_sum{_shown(labels)} {self._sums[labels]:.6f}")
            lines.append(f"{name}_count{_shown(labels)} {total}")
        for gauge, value in sorted({**gauges, "registry_http_in_flight_requests": self._in_flight}.items()):
            lines += [f"# TYPE {gauge} gauge", f"{gauge} {_number(value)}"]
        return "\n".join(lines) + "\n"


def _shown(labels: Labels) -> str:
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels
    )
    inner = ",".join(f'{name}="{value}"' for name, value in escaped)
    return f"{{{inner}}}" if inner else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
