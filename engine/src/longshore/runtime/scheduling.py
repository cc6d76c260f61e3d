"""Scheduling class, input and output priority, processors: words of the specification as numbers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from longshore.errors import InvalidArgument
from longshore.oci.runtime_spec import CpuAffinity, IoPriority, Scheduler

_POLICIES = {  # sched(7)
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
SCHED_DEADLINE = _POLICIES["SCHED_DEADLINE"]
_FLAGS = {  # linux/sched.h
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_MOST_PROCESSORS = 8192


@dataclass(frozen=True, slots=True)
class SchedulerPlan:
    policy: int
    flags: int
    nice: int
    priority: int
    times: tuple[int, int, int]


def plan_scheduler(scheduler: Scheduler | None) -> SchedulerPlan | None:
    """Raises InvalidArgument for unknown words and for values that the policy does not know."""
    if scheduler is None:
        return None
    where = "process.scheduler"
    policy = _POLICIES.get(scheduler.policy)
    if policy is None:
        raise InvalidArgument(f'{where}.policy: unknown scheduling policy "{scheduler.policy}"')
    flags = 0
    for index, word in enumerate(scheduler.flags):
        if word not in _FLAGS:
            raise InvalidArgument(f'{where}.flags[{index}]: unknown flag "{word}"')
        flags |= _FLAGS[word]
    if not -20 <= scheduler.nice <= 19:
        raise InvalidArgument(f"{where}.nice: {scheduler.nice} is not between -20 and 19")
    if scheduler.priority and scheduler.policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise InvalidArgument(f"{where}.priority: only SCHED_FIFO and SCHED_RR have one")
    times = (scheduler.runtime, scheduler.deadline, scheduler.period)
    if any(times) and policy != SCHED_DEADLINE:
        raise InvalidArgument(f"{where}: runtime, deadline and period need SCHED_DEADLINE")
    if any(not 0 <= value < 1 << 63 for value in times):
        raise InvalidArgument(f"{where}: runtime, deadline and period are numbers of nanoseconds")
    return SchedulerPlan(policy, flags, scheduler.nice, scheduler.priority, times)


def plan_io_priority(priority: IoPriority | None) -> tuple[int, int] | None:
    """Class and level, ioprio_set(2). Raises InvalidArgument."""
    if priority is None:
        return None
    number = IO_CLASSES.get(priority.class_)
    if number is None:
        raise InvalidArgument(f'process.ioPriority.class: unknown class "{priority.class_}"')
    if not 0 <= priority.priority <= 7:
        raise InvalidArgument(f"process.ioPriority.priority: {priority.priority} is not between 0 and 7")
    return number, priority.priority


def plan_affinity(affinity: CpuAffinity | None) -> tuple[frozenset[int], frozenset[int]]:
    """The processors of `initial` and `final`; empty: no opinion. Raises InvalidArgument."""
    if affinity is None:
        return frozenset(), frozenset()
    where = "process.execCPUAffinity"
    return (
        parse_processors(affinity.initial, f"{where}.initial"),
        parse_processors(affinity.final, f"{where}.final"),
    )


def parse_processors(text: str, where: str) -> frozenset[int]:
    """0-2,7 as a set of numbers, cpuset(7). Raises InvalidArgument."""
    chosen: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.strip().partition("-")
        numbers = (first, last or first) if dash else (first, first)
        if not all(number.isascii() and number.isdigit() and len(number) < 6 for number in numbers):
            raise InvalidArgument(f'{where}: "{text}" is not a list of processors')
        low, high = map(int, numbers)
        if not low <= high < _MOST_PROCESSORS:
            raise InvalidArgument(f'{where}: "{part}" is not a range of processors')
        chosen.update(range(low, high + 1))
    return frozenset(chosen)
