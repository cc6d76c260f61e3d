"""`docker update`: which limits change. Pure."""

from msgspec.structs import replace

from longshore.core.model import HostConfig, Resources, UpdateRequest
from longshore.errors import InvalidArgument

_CHANGEABLE = [
    "cpu_shares",
    "memory",
    "nano_cpus",
    "blkio_weight",
    "cpu_period",
    "cpu_quota",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
    "cpuset_cpus",
    "cpuset_mems",
    "memory_reservation",
    "memory_swap",
    "pids_limit",
]


def merge_update(host: HostConfig, request: UpdateRequest) -> HostConfig:
    """The HostConfig after the update; zero and empty mean "as it is". Raises InvalidArgument.

    Of NanoCpus and CpuPeriod/CpuQuota the newer kind replaces the older one.
    """
    empty = Resources()
    changes = {
        name: getattr(request, name) for name in _CHANGEABLE if getattr(request, name) != getattr(empty, name)
    }
    if changes.get("memory") and "memory_swap" not in changes and 0 < host.memory_swap < changes["memory"]:
        raise InvalidArgument(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    if "nano_cpus" in changes and (host.cpu_period or host.cpu_quota):
        raise InvalidArgument(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period or Quota has already been set."
        )
    if changes.keys() & {"cpu_period", "cpu_quota"} and host.nano_cpus:
        raise InvalidArgument(
            "Conflicting options: CPU Period and Quota cannot be updated as NanoCPUs has already been set."
        )
    if "pids_limit" in changes and changes["pids_limit"] <= 0:
        if changes["pids_limit"]:
            changes["pids_limit"] = None
        else:
            del changes["pids_limit"]  # the docker CLI sends 0 where the flag was not given
    if request.restart_policy and request.restart_policy.name:
        changes["restart_policy"] = request.restart_policy
    return replace(host, **changes)
