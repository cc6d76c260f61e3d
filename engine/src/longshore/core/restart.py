"""Restart policies: whether and when an ended container starts again. Pure."""

from longshore.core.model import RestartPolicy
from longshore.errors import InvalidArgument

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
STEADY = 10.0  # a run of this many seconds was a success: the delay starts again at the first one

NAMES = ("no", "always", "on-failure", "unless-stopped")


def check_policy(policy: RestartPolicy) -> None:
    """Raises InvalidArgument."""
    if policy.name not in ("", *NAMES):
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if policy.maximum_retry_count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidArgument(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        )


def next_delay(last: float, ran_for: float) -> float:
    """Seconds until the next start: 0.1, 0.2, 0.4 … 60; 0.1 again after a steady run. `last` 0: first one."""
    if ran_for >= STEADY or not last:
        return FIRST_DELAY
    return min(last * 2, LONGEST_DELAY)


def restarts_after_exit(policy: RestartPolicy, *, code: int, restarts: int, stopped_by_user: bool) -> bool:
    """Whether a container that just ended starts again. Stopped by the user: never."""
    if stopped_by_user:
        return False
    if policy.name == "on-failure":
        return code != 0 and (not policy.maximum_retry_count or restarts < policy.maximum_retry_count)
    return policy.name in ("always", "unless-stopped")


def starts_with_daemon(
    policy: RestartPolicy, *, was_running: bool, code: int, restarts: int, stopped_by_user: bool
) -> bool:
    """Whether a container starts when the daemon does. `was_running`: it ended while no daemon looked, or the
    machine went down under it.

    `always` also brings back what the user stopped: that is its difference to `unless-stopped`
    (https://docs.docker.com/engine/containers/start-containers-automatically/).
    """
    if policy.name == "always":
        return True
    if policy.name == "unless-stopped":
        return not stopped_by_user
    if policy.name == "on-failure" and was_running:
        return restarts_after_exit(policy, code=code, restarts=restarts, stopped_by_user=stopped_by_user)
    return False
