"""Stats in the forms of cgroup v1 and v2 (Docker Engine API, ContainerStats)."""

from longshore.core.containers.measure import view
from longshore.runtime.cgroup_stats import IoEntry, Stats

COUNTED = Stats(
    cpu_total=900,
    cpu_user=600,
    cpu_system=300,
    cpu_each=(500, 400),
    periods=9,
    throttled_periods=2,
    throttled_time=77,
    memory_usage=4096,
    memory_peak=8192,
    memory={"cache": 1, "rss": 2},
    pids=3,
    io_bytes=(IoEntry(8, 0, "Read", 10),),
    io_operations=(IoEntry(8, 0, "Read", 1),),
)
LISTS = {
    "io_service_bytes_recursive", "io_serviced_recursive", "io_queue_recursive", "io_service_time_recursive",
    "io_wait_time_recursive", "io_merged_recursive", "io_time_recursive", "sectors_recursive",
}  # fmt: skip


def test_v1() -> None:
    shown = view(COUNTED, v2=False, host_cpu=5000, host_memory=1 << 30)
    assert shown["cpu_stats"]["cpu_usage"] == {
        "total_usage": 900, "usage_in_kernelmode": 300, "usage_in_usermode": 600, "percpu_usage": [500, 400],
    }  # fmt: skip
    assert shown["cpu_stats"]["system_cpu_usage"] == 5000
    assert shown["cpu_stats"]["throttling_data"] == {
        "periods": 9,
        "throttled_periods": 2,
        "throttled_time": 77,
    }
    assert shown["memory_stats"] == {
        "usage": 4096, "max_usage": 8192, "stats": {"cache": 1, "rss": 2}, "limit": 1 << 30,
    }  # fmt: skip
    assert shown["pids_stats"] == {"current": 3}
    assert set(shown["blkio_stats"]) == LISTS
    assert shown["blkio_stats"]["io_service_bytes_recursive"] == [
        {"major": 8, "minor": 0, "op": "Read", "value": 10}
    ]
    assert shown["blkio_stats"]["io_serviced_recursive"] == [
        {"major": 8, "minor": 0, "op": "Read", "value": 1}
    ]
    assert shown["blkio_stats"]["sectors_recursive"] == []
    assert shown["num_procs"] == 0


def test_v2() -> None:
    counted = Stats(
        cpu_total=900, memory_usage=4096, memory_peak=8192, memory_limit=1 << 20, memory_failures=4,
        memory={"anon": 1}, pids=1, pids_limit=10, io_bytes=(IoEntry(8, 0, "read", 10),),
        io_operations=(IoEntry(8, 0, "read", 1),),
    )  # fmt: skip
    shown = view(counted, v2=True, host_cpu=5000, host_memory=1 << 30)
    assert "percpu_usage" not in shown["cpu_stats"]["cpu_usage"]
    assert shown["memory_stats"] == {"usage": 4096, "stats": {"anon": 1}, "failcnt": 4, "limit": 1 << 20}
    assert shown["pids_stats"] == {"current": 1, "limit": 10}
    assert shown["blkio_stats"]["io_service_bytes_recursive"] == [
        {"major": 8, "minor": 0, "op": "read", "value": 10}
    ]
    assert {name for name, entries in shown["blkio_stats"].items() if entries is None} == LISTS - {
        "io_service_bytes_recursive"
    }


def test_a_limit_beyond_the_machine_is_the_machines() -> None:
    assert (
        view(Stats(memory_limit=1 << 50), v2=True, host_cpu=0, host_memory=100)["memory_stats"]["limit"]
        == 100
    )
