"""The executor of `apply` over a host that records, and fails where a test wants it to."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from longshore.apply import ready
from longshore.apply.compare import Difference
from longshore.apply.execute import NEXT, OLD, Execution, recover, replace
from longshore.apply.normalise import Options, normalise
from longshore.apply.plan import Step
from longshore.apply.ready import Condition, count_sockets, until_ready
from longshore.apply.request import WantedContainer, WantedNetwork, WantedVolume
from longshore.errors import Conflict, EngineError, Internal, Unavailable


class RecordingHost:
    """Names to ids, what runs, who holds the port; `calls` in order. `failing` names the call that fails."""

    def __init__(self, failing: str = "", *, health: str = "healthy") -> None:
        self.calls: list[str] = []
        self.names: dict[str, str] = {}
        self.running: set[str] = set()
        self.port = ""
        self.failing = failing
        self.health = health
        self.made = 0

    def have(self, name: str, id: str, *, running: bool = True, port: bool = True) -> None:
        self.names[name] = id
        if running:
            self.running.add(id)
            self.port = id if port else self.port

    def _do(self, call: str) -> None:
        self.calls.append(call)
        if call == self.failing:
            raise Internal(f"{call} fails")

    async def pull(self, name: str, platform: str, progress: Callable[[str], None]) -> None:
        progress("Pulling")
        self._do(f"pull {name}")

    async def create_volume(self, wanted: WantedVolume) -> None:
        self._do(f"create volume {wanted.name}")

    async def remove_volume(self, name: str) -> None:
        self._do(f"remove volume {name}")

    async def create_network(self, wanted: WantedNetwork) -> None:
        self._do(f"create network {wanted.name}")

    async def remove_network(self, name: str) -> None:
        self._do(f"remove network {name}")

    def id_of(self, name: str) -> str | None:
        return self.names.get(name)

    async def create(self, name: str, options: Options, *, successor_of: str = "") -> str:
        self._do(f"create {name}" + (f" after {successor_of}" if successor_of else ""))
        self.made += 1
        self.names[name] = f"n{self.made}"
        return self.names[name]

    async def start(self, id: str) -> None:
        self._do(f"start {id}")
        self.running.add(id)
        self.port = self.port or id

    async def stop(self, id: str) -> None:
        self._do(f"stop {id}")
        self.running.discard(id)
        self.port = "" if self.port == id else self.port

    async def remove(self, id: str) -> None:
        self._do(f"remove {id}")
        self.running.discard(id)
        self.port = "" if self.port == id else self.port
        self.names = {name: other for name, other in self.names.items() if other != id}

    async def rename(self, id: str, name: str) -> None:
        self._do(f"rename {id} {name}")
        assert name not in self.names, f"{name} is taken"
        self.names = {old: other for old, other in self.names.items() if other != id} | {name: id}

    async def update(self, id: str, body: Mapping[str, Any], options: Options) -> None:
        self._do(f"update {id} {dict(body)}")

    async def hand_over(self, old: str, new: str) -> None:
        self._do(f"hand over {old} {new}")
        self.port = new

    async def tail(self, id: str) -> str:
        return "last words"

    def condition(self, id: str) -> Condition:
        fresh = id.startswith("n")
        return Condition(running=id in self.running, health=self.health if fresh else "healthy")


def step(action: Any, *, start_first: bool = False, name: str = "web", **more: Any) -> Step:
    wanted = msgspec.convert(
        {"name": name, "image": "app:2", "ports": ["80:80"], "wait_timeout": 0.2, "drain_timeout": 0.2},
        WantedContainer,
    )
    values: dict[str, Any] = {"wanted": wanted, "options": normalise(wanted), "start": True, **more}
    return Step("container", name, action, start_first=start_first, **values)


async def test_start_first_never_leaves_the_port_alone() -> None:
    host = RecordingHost()
    host.have("web", "c1")
    await replace(host, step("replace", start_first=True), "c1")
    assert host.calls == [
        f"create web{NEXT} after c1",
        "start n1",
        f"rename c1 web{OLD}",
        "rename n1 web",
        "hand over c1 n1",
        "stop c1",
        "remove c1",
    ]
    assert (host.names, host.running, host.port) == ({"web": "n1"}, {"n1"}, "n1")


async def test_stop_first_makes_the_new_one_before_the_old_one_stops() -> None:
    host = RecordingHost()
    host.have("web", "c1")
    await replace(host, step("replace"), "c1")
    assert host.calls[:3] == [f"create web{NEXT}", "stop c1", "start n1"]
    assert (host.names, host.running, host.port) == ({"web": "n1"}, {"n1"}, "n1")


@pytest.mark.parametrize("start_first", [True, False])
@pytest.mark.parametrize(
    "failing",
    [f"create web{NEXT}", "start n1", f"rename c1 web{OLD}", "rename n1 web", "hand over c1 n1", "unhealthy"],
)
async def test_a_replacement_that_fails_leaves_everything_as_it_was(failing: str, start_first: bool) -> None:
    if failing.startswith("create") and start_first:
        failing += " after c1"
    host = RecordingHost(failing, health="unhealthy" if failing == "unhealthy" else "healthy")
    host.have("web", "c1")
    with pytest.raises(EngineError):
        await replace(host, step("replace", start_first=start_first), "c1")
    assert (host.names, host.running, host.port) == ({"web": "c1"}, {"c1"}, "c1")


async def test_the_failure_says_why_and_what_is_left() -> None:
    host = RecordingHost(health="unhealthy")
    host.have("web", "c1")
    with pytest.raises(Conflict) as caught:
        await replace(host, step("replace", start_first=True), "c1")
    text = str(caught.value)
    for part in (
        "cannot replace container web",
        "health check fails",
        "last words",
        "the old container runs on",
    ):
        assert part in text


async def test_a_new_container_that_does_not_become_ready_is_taken_away() -> None:
    host = RecordingHost(health="unhealthy")
    failed = await Execution(host, {}, {}).run([step("create")], lambda event: None)
    assert failed is not None and failed["name"] == "web"
    assert (host.names, host.running) == ({}, set())


@pytest.mark.parametrize(
    ("there", "names", "port"),
    [
        ({"web": "c1"}, {"web": "c1"}, "c1"),
        ({"web": "c1", f"web{NEXT}": "c2"}, {"web": "c1"}, "c1"),  # before the names changed
        ({f"web{OLD}": "c1", f"web{NEXT}": "c2"}, {"web": "c1"}, "c1"),  # between the two names
        ({f"web{OLD}": "c1", "web": "c2"}, {"web": "c2"}, "c2"),  # after them
        ({}, {}, ""),
    ],
)
async def test_what_a_killed_daemon_left_is_finished_or_undone(
    there: dict[str, str], names: dict[str, str], port: str
) -> None:
    host = RecordingHost()
    for name, id in there.items():
        host.have(name, id, port=id == "c1")
    for _ in range(2):  # twice is fine
        await recover(host, "web")
        assert (host.names, host.running, host.port) == (names, set(names.values()), port)


async def test_events_tell_every_step_in_order() -> None:
    events: list[dict[str, Any]] = []
    host = RecordingHost()
    host.have("web", "c1")
    steps = [
        Step("image", "app:2", "pull"),
        Step("container", "keep", "keep"),
        step("update", difference=Difference({}, {"HostConfig.Memory": 5})),
        Step("container", "gone", "remove"),
    ]
    assert await Execution(host, {}, {}).run(steps, events.append) is None
    assert host.calls == ["pull app:2", "update c1 {'Memory': 5, 'MemorySwap': 10}"]
    told = [(event["index"], event["status"], event.get("message", "")) for event in events]
    assert told[:3] == [(0, "running", ""), (0, "running", "Pulling"), (0, "done", "")]
    assert (2, "done", "") in told and (3, "done", "was gone already") in told


async def test_after_a_failure_no_new_step_begins() -> None:
    host = RecordingHost("pull app:2")
    steps = [Step("image", "app:2", "pull"), step("create"), Step("volume", "old", "remove")]
    failed = await Execution(host, {}, {}).run(steps, lambda event: None)
    assert failed == {"step": 0, "kind": "image", "name": "app:2", "message": "pull app:2 fails"}
    assert host.calls == ["pull app:2"]


async def test_containers_are_worked_on_side_by_side() -> None:
    host = RecordingHost()
    both = asyncio.Event()

    async def start(id: str) -> None:
        host.running.add(id)
        if len(host.running) == 2:
            both.set()
        await asyncio.wait_for(both.wait(), 1)  # never, if one waited for the other

    host.start = start  # type: ignore[method-assign]
    steps = [step("create", name="a"), step("create", name="b")]
    assert await Execution(host, {}, {}).run(steps, lambda event: None) is None


class Watched:
    def __init__(self, *conditions: Condition) -> None:
        self.conditions = list(conditions)

    def condition(self, id: str) -> Condition:
        return self.conditions.pop(0) if len(self.conditions) > 1 else self.conditions[0]


RUNS = Condition(running=True)
STARTING = Condition(running=True, health="starting")


@pytest.mark.parametrize(
    ("conditions", "strict", "says"),
    [
        ([STARTING, STARTING, Condition(running=True, health="healthy")], True, None),
        ([Condition(running=True, health="unhealthy", output="no route")], True, "no route"),
        ([STARTING], True, "health is starting after"),
        ([Condition(running=False, exit_code=3)], False, "ended with code 3"),
        ([RUNS, Condition(running=False, exit_code=0)], False, None),
        ([RUNS, Condition(running=False, exit_code=0)], True, "ended with code 0"),
        ([Condition(running=True, restarts=1, exit_code=1)], False, "restarted 1 times"),
        ([RUNS], True, None),
    ],
)
async def test_when_a_container_is_ready(
    conditions: list[Condition], strict: bool, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_SETTLE", 0.01)
    monkeypatch.setattr(ready, "_POLL", 0.001)
    waiting = until_ready(Watched(*conditions), "c", timeout=0.05, ports=(), strict=strict)
    if says is None:
        await waiting
        return
    with pytest.raises(Unavailable, match=says):
        await waiting


async def test_a_successor_has_to_listen_where_it_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "_SETTLE", 0.01)
    listening: set[int] = set()
    monkeypatch.setattr(ready, "sockets_of", lambda pid, ports, states: len(listening & set(ports)))
    with pytest.raises(Unavailable, match="nothing listens on port 80"):
        await until_ready(Watched(RUNS), "c", timeout=0.05, ports=(80,), strict=True)
    listening.add(80)
    await until_ready(Watched(RUNS), "c", timeout=0.05, ports=(80,), strict=True)


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 020011AC:0050 010011AC:D431 01 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 020011AC:9C40 010011AC:0050 01 00000000:00000000 00:00000000 00000000     0        0 3 1
   3: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4 1
"""


@pytest.mark.parametrize(
    ("ports", "states", "count"),
    [
        ((80,), (ready.LISTEN,), 1),
        ((80,), (ready.ESTABLISHED,), 1),
        ((8080,), (ready.LISTEN,), 1),
        ((81,), (1, 10), 0),
    ],
)
def test_sockets_are_counted_by_local_port_and_state(
    ports: tuple[int, ...], states: tuple[int, ...], count: int
) -> None:
    assert count_sockets(TABLE, ports, states) == count
