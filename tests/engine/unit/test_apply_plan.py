"""The planner of `apply`, in tables: a request and a host give steps."""

from typing import Any

import msgspec
import pytest

from longshore.apply.normalise import normalise
from longshore.apply.plan import ActualContainer, ActualHost, Step, in_scope, plan
from longshore.apply.request import ApplyRequest, WantedContainer
from longshore.errors import Conflict, EngineError, InvalidArgument, NotFound

OLD, NEW = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def request(*containers: dict[str, Any], **more: Any) -> ApplyRequest:
    named = [{"name": "web", **container} for container in containers]
    return msgspec.convert({"containers": named, **more}, ApplyRequest)


def existing(options: dict[str, Any] | None = None, **more: Any) -> ActualContainer:
    wanted = msgspec.convert({"name": "web", "image": "app:1", **(options or {})}, WantedContainer)
    values: dict[str, Any] = {
        "name": "web",
        "id": "c1",
        "image": "app:1",
        "image_id": OLD,
        "running": True,
        "options": normalise(wanted),
        "ours": True,
        **more,
    }
    return ActualContainer(**values)


def host(*containers: ActualContainer, images: dict[str, str] | None = None, **more: Any) -> ActualHost:
    known = {"app:1": OLD, "app:2": NEW} if images is None else images
    return ActualHost(images=known, containers={c.name: c for c in containers}, **more)


def actions(steps: list[Step]) -> list[tuple[str, str]]:
    return [(step.kind, step.action) for step in steps]


C = "container"


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        # nothing there
        ({"image": "app:1"}, None, [(C, "create")]),
        ({"image": "app:1", "state": "stopped"}, None, [(C, "create")]),
        ({"state": "absent"}, None, [(C, "keep")]),
        # as wanted
        ({"image": "app:1"}, existing(), [(C, "keep")]),
        ({"image": "app:1", "state": "present"}, existing(running=False), [(C, "keep")]),
        ({"image": "app:1", "state": "stopped"}, existing(running=False), [(C, "keep")]),
        # drift
        ({"image": "app:1"}, existing(running=False), [(C, "start")]),
        ({"image": "app:1"}, existing(paused=True), [(C, "start")]),
        ({"image": "app:1", "state": "stopped"}, existing(), [(C, "stop")]),
        ({"state": "absent"}, existing(), [(C, "remove")]),
        # change
        ({"image": "app:1", "memory": "1g"}, existing(), [(C, "update")]),
        ({"image": "app:1", "memory": "1g"}, existing(running=False), [(C, "update"), (C, "start")]),
        ({"image": "app:1", "user": "x"}, existing(), [(C, "replace")]),
        ({"image": "app:1"}, existing({"env": {"GONE": "1"}}), [(C, "replace")]),
        ({"image": "app:2"}, existing(), [(C, "replace")]),
        ({"image": "app:1"}, existing(image_id=NEW), [(C, "replace")]),  # the tag moved
        # two names of one image are the same image
        ({"image": "other:1"}, existing(), [(C, "keep")]),
        # recreate
        ({"image": "app:1", "recreate": "always"}, existing(), [(C, "replace")]),
        ({"image": "app:2", "recreate": "never"}, existing(), [(C, "keep")]),
        ({"image": "app:2", "recreate": "never", "memory": "1g"}, existing(), [(C, "keep")]),
        # only a part of it is named
        ({"memory": "1g"}, existing({"env": {"A": "1"}}), [(C, "update")]),
        ({}, existing({"env": {"A": "1"}}, running=False), [(C, "start")]),
        # made by docker run: its other options are not ours to take back
        ({"image": "app:1"}, existing({"env": {"A": "1"}}, ours=False), [(C, "keep")]),
        ({"image": "app:1", "env": {"A": "2"}}, existing({"env": {"A": "1"}}, ours=False), [(C, "replace")]),
        # images
        ({"image": "far:1"}, None, [("image", "pull"), (C, "create")]),
        ({"image": "app:1", "pull": "always"}, existing(), [("image", "pull"), (C, "keep")]),
    ],
)
def test_plans(
    wanted: dict[str, Any], there: ActualContainer | None, expected: list[tuple[str, str]]
) -> None:
    known = {"app:1": OLD, "app:2": NEW, "other:1": OLD}
    found = host(*([there] if there else []), images=known)
    assert actions(plan(request(wanted), found)) == expected


def test_the_same_plan_is_made_in_a_dry_run() -> None:
    there = host(existing())
    wanted = {"image": "app:2", "env": {"A": "1"}}
    real, dry = plan(request(wanted), there), plan(request(wanted, dry_run=True), there)
    assert [step.wire() for step in real] == [step.wire() for step in dry]


def test_a_replacement_keeps_the_options_that_a_partial_request_does_not_name() -> None:
    (step,) = plan(request({"user": "x"}), host(existing({"env": {"A": "1"}})))
    assert step.options == {"Env": {"A": "1"}, "Image": "app:1", "User": "x"}


def test_the_diff_shows_both_images_when_a_tag_moved() -> None:
    (step,) = plan(request({"image": "app:1"}), host(existing(image_id=NEW)))
    assert step.wire()["diff"] == {
        "before": {"Image": "app:1", "ImageID": NEW},
        "after": {"Image": "app:1", "ImageID": OLD},
    }
    assert "tag moved" in step.reason


def test_an_image_that_is_still_to_be_shipped_is_believed_in_a_dry_run_only() -> None:
    wanted = {"image": "app:3", "image_id": NEW, "pull": "never"}
    (step,) = plan(request(wanted, dry_run=True), host(existing()))
    assert step.action == "replace"
    assert step.wire()["diff"]["after"] == {"Image": "app:3", "ImageID": NEW}
    with pytest.raises(NotFound, match="No such image: app:3"):
        plan(request(wanted), host(existing()))


def test_a_name_that_stands_for_another_image_than_wanted_is_refused() -> None:
    with pytest.raises(Conflict, match="app:1 is not the wanted image"):
        plan(request({"image": "app:1", "image_id": NEW, "pull": "never"}), host())


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({}, InvalidArgument),
        ({"image": "far:1", "pull": "never"}, NotFound),
        ({"image": "app:1", "memory": "lots"}, InvalidArgument),
        ({"image": "app:1", "cpus": -1}, InvalidArgument),
        ({"image": "app:1", "command": "'unclosed"}, InvalidArgument),
    ],
)
def test_what_cannot_be_planned_is_refused_as_a_whole(
    wanted: dict[str, Any], error: type[EngineError]
) -> None:
    with pytest.raises(error):
        plan(request(wanted), host())


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"ports": ["80:80"]}, True),
        ({"ports": ["80"]}, False),  # any free port: nobody misses the old one
        ({}, False),
        ({"ports": ["80:80"], "volumes": ["data:/data"]}, False),
        ({"ports": ["80:80"], "volumes": ["/etc/app:/etc/app:ro"]}, True),
        ({"ports": ["80:80"], "volumes": ["/scratch"]}, True),  # anonymous: each has its own
        ({"ports": ["80:80"], "mounts": [{"Type": "bind", "Source": "/a", "Target": "/a"}]}, False),
        (
            {
                "ports": ["80:80"],
                "mounts": [{"Type": "bind", "Source": "/a", "Target": "/a", "ReadOnly": True}],
            },
            True,
        ),
        ({"ports": ["80:80"], "network_mode": "host"}, False),
        ({"ports": ["80:80"], "order": "stop-first"}, False),
        ({"volumes": ["data:/data"], "order": "start-first"}, True),
    ],
)
def test_old_and_new_run_side_by_side_where_it_pays_and_is_safe(options: dict[str, Any], first: bool) -> None:
    there = existing({key: value for key, value in options.items() if key != "order"})
    (step,) = plan(request({"image": "app:2", **options}), host(there))
    assert (step.action, step.start_first) == ("replace", first)


def test_a_stopped_container_is_replaced_by_a_stopped_one_unless_it_is_to_run() -> None:
    there = host(existing({"ports": ["80:80"]}, running=False))
    (step,) = plan(request({"image": "app:2", "ports": ["80:80"], "state": "present"}), there)
    assert (step.start, step.start_first) == (False, False)
    (step,) = plan(request({"image": "app:2", "ports": ["80:80"]}), there)
    assert (step.start, step.start_first) == (True, False)


def test_prune_removes_what_is_in_the_scope_and_not_named() -> None:
    mine = {"longshore.app": "web"}
    there = host(
        existing(name="web", labels=mine),
        existing(name="web-old", labels=mine),
        existing(name="db", labels={"longshore.app": "db"}),
    )
    scope = {"label": "longshore.app=web", "prune": True}
    steps = plan(request({"image": "app:1"}, scope=scope), there)
    assert [(step.name, step.action) for step in steps] == [("web", "keep"), ("web-old", "remove")]
    assert len(plan(request({"image": "app:1"}, scope={**scope, "prune": False}), there)) == 1


def test_in_scope() -> None:
    assert in_scope({"a": "1"}, "a") and in_scope({"a": "1"}, "a=1")
    assert not in_scope({"a": "1"}, "a=2") and not in_scope({}, "a")


def test_images_and_volumes_come_first_and_what_is_removed_goes_last() -> None:
    wanted = request(
        {"image": "far:1"},
        images=[{"name": "far:1"}, {"name": "app:1"}],
        volumes=[{"name": "old", "state": "absent"}, {"name": "data"}],
    )
    steps = plan(wanted, host(volumes=frozenset({"old"})))
    assert [(step.kind, step.name, step.action) for step in steps] == [
        ("image", "far:1", "pull"),
        ("image", "app:1", "keep"),
        ("volume", "data", "create"),
        ("container", "web", "create"),
        ("volume", "old", "remove"),
    ]
