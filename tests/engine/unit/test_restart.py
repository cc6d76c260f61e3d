"""Restart policies."""

import pytest

from longshore.core.model import RestartPolicy
from longshore.core.restart import check_policy, next_delay, restarts_after_exit, starts_with_daemon
from longshore.errors import InvalidArgument


def test_delays_double_to_a_minute_and_start_again_after_a_steady_run() -> None:
    delays = [next_delay(0, 0)]
    for _ in range(11):
        delays.append(next_delay(delays[-1], 1.0))
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 60.0
    assert next_delay(60.0, 10.0) == 0.1


@pytest.mark.parametrize(
    ("name", "most", "code", "restarts", "by_user", "again"),
    [
        ("no", 0, 1, 0, False, False),
        ("", 0, 1, 0, False, False),
        ("always", 0, 0, 99, False, True),
        ("always", 0, 0, 0, True, False),
        ("unless-stopped", 0, 0, 5, False, True),
        ("unless-stopped", 0, 1, 5, True, False),
        ("on-failure", 0, 0, 0, False, False),
        ("on-failure", 0, 1, 99, False, True),
        ("on-failure", 2, 1, 1, False, True),
        ("on-failure", 2, 1, 2, False, False),
        ("on-failure", 2, 1, 0, True, False),
    ],
)
def test_after_an_exit(name: str, most: int, code: int, restarts: int, by_user: bool, again: bool) -> None:
    policy = RestartPolicy(name=name, maximum_retry_count=most)
    assert restarts_after_exit(policy, code=code, restarts=restarts, stopped_by_user=by_user) == again


@pytest.mark.parametrize(
    ("name", "was_running", "code", "by_user", "again"),
    [
        ("no", True, 1, False, False),
        ("always", False, 0, True, True),
        ("always", True, 0, False, True),
        ("unless-stopped", False, 0, True, False),
        ("unless-stopped", True, 137, False, True),
        ("on-failure", True, 1, False, True),
        ("on-failure", True, 0, False, False),
        ("on-failure", False, 1, False, False),
    ],
)
def test_with_the_daemon(name: str, was_running: bool, code: int, by_user: bool, again: bool) -> None:
    policy = RestartPolicy(name=name)
    assert (
        starts_with_daemon(policy, was_running=was_running, code=code, restarts=0, stopped_by_user=by_user)
        == again
    )


def test_bad_policies() -> None:
    for policy in (
        RestartPolicy(name="x"),
        RestartPolicy(name="no", maximum_retry_count=1),
        RestartPolicy(name="on-failure", maximum_retry_count=-1),
    ):
        with pytest.raises(InvalidArgument):
            check_policy(policy)
