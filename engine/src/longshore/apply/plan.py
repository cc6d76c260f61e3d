"""From a request and the state of the host to a list of steps. Pure: a dry run and the real run share it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from longshore.apply.compare import Difference, Verdict, compare, overlay, verdict
from longshore.apply.normalise import Options, normalise
from longshore.apply.request import ApplyRequest, Pull, WantedContainer
from longshore.apply.values import fixed_ports
from longshore.errors import Conflict, InvalidArgument, NotFound

Action = Literal["create", "update", "replace", "start", "stop", "remove", "pull", "keep"]
Kind = Literal["image", "volume", "network", "container"]


@dataclass(frozen=True, slots=True)
class ActualContainer:
    """A container as it is. `options` is its normal form, `ours` whether apply made it."""

    name: str
    id: str
    image: str  # the reference it was created from
    image_id: str
    running: bool
    options: Options
    ours: bool
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    paused: bool = False


@dataclass(frozen=True, slots=True)
class ActualHost:
    """What the planner knows of the host: only the objects the request speaks of."""

    images: Mapping[str, str] = field(default_factory=dict[str, str])  # name as requested -> id
    volumes: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    containers: Mapping[str, ActualContainer] = field(default_factory=dict[str, ActualContainer])


@dataclass(frozen=True, slots=True)
class Step:
    kind: Kind
    name: str
    action: Action
    difference: Difference = field(default_factory=Difference)
    reason: str = ""
    wanted: WantedContainer | None = None
    options: Options = field(
        default_factory=dict[str, Any]
    )  # normal form to create, and to store as `desired`
    start: bool = False  # create and replace: run it afterwards
    start_first: bool = False  # replace: the new one runs before the old one ends
    pull: Pull = "missing"  # images
    platform: str = ""
    expected_id: str = ""

    @property
    def changes(self) -> bool:
        return self.action != "keep"

    def wire(self) -> dict[str, Any]:
        diff = {"before": dict(self.difference.before), "after": dict(self.difference.after)}
        return {
            "kind": self.kind,
            "name": self.name,
            "action": self.action,
            "diff": diff,
            "reason": self.reason,
        }


def plan(request: ApplyRequest, host: ActualHost) -> list[Step]:
    """The steps in the order of execution, objects that stay as they are included (`keep`).

    Raises InvalidArgument, NotFound (an image that nobody may fetch) and Conflict (a name stands for another
    image than the request says), all before anything is touched.
    """
    coming: dict[str, str] = {}  # images that will be here, with their id when known
    steps = _plan_images(request, host, coming)
    for volume in request.volumes:
        steps.append(_plan_object("volume", volume.name, volume.state, volume.name in host.volumes))
    for network in request.networks:
        steps.append(_plan_object("network", network.name, network.state, network.name in host.networks))
    for wanted in request.containers:
        steps.extend(_plan_container(wanted, host, coming, dry_run=request.dry_run))
    steps.extend(_plan_prune(request, host))
    # what is removed may still be in use by the containers, so it goes last
    removals = [step for step in steps if step.kind in ("volume", "network") and step.action == "remove"]
    return [step for step in steps if step not in removals] + removals


def _plan_images(request: ApplyRequest, host: ActualHost, coming: dict[str, str]) -> list[Step]:
    steps: list[Step] = []
    for image in request.images:
        present = host.images.get(image.name, "")
        coming[image.name] = image.id or present
        wrong = bool(image.id) and present not in ("", image.id)
        if present and not wrong and image.pull != "always":
            steps.append(Step("image", image.name, "keep"))
        elif image.pull == "never":
            if wrong:
                raise _wrong_image(image.name, present, image.id)
            raise _missing_image(image.name)
        else:
            reason = "another image has this name here" if wrong else "not on this host"
            steps.append(
                Step(
                    "image",
                    image.name,
                    "pull",
                    Difference({"id": present} if present else {}, {"id": image.id} if image.id else {}),
                    reason if image.pull != "always" or not present else "pull: always",
                    pull=image.pull,
                    platform=image.platform,
                    expected_id=image.id,
                )
            )
    return steps


def _plan_object(kind: Kind, name: str, state: str, exists: bool) -> Step:
    if state == "present":
        return Step(kind, name, "keep") if exists else Step(kind, name, "create", reason="does not exist")
    return Step(kind, name, "remove", reason="state: absent") if exists else Step(kind, name, "keep")


def _plan_container(
    wanted: WantedContainer, host: ActualHost, coming: Mapping[str, str], *, dry_run: bool
) -> list[Step]:
    actual = host.containers.get(wanted.name)
    if wanted.state == "absent":
        if actual is None:
            return [Step("container", wanted.name, "keep")]
        return [_removal(actual, "state: absent", wanted)]
    options = normalise(wanted)
    image = options.get("Image", "")
    if actual is None and not image:
        raise InvalidArgument(f"cannot create container {wanted.name}", detail="no image given")
    pulls, image_id = _image_for(wanted, image, host, coming, dry_run=dry_run) if image else ([], "")
    if actual is None:
        start = wanted.state == "started"
        shown = Difference({}, {**options, "State": "running" if start else "created"})
        step = Step("container", wanted.name, "create", shown, "does not exist", wanted, options, start)
        return [*pulls, step]
    return pulls + _plan_existing(wanted, actual, options, image, image_id)


def _image_for(
    wanted: WantedContainer, image: str, host: ActualHost, coming: Mapping[str, str], *, dry_run: bool
) -> tuple[list[Step], str]:
    """(the pull that is needed, the id the image will have, "" when only the pull will tell)."""
    known = coming.get(image, "")
    present = host.images.get(image, "")
    expected = wanted.image_id
    if image in coming and not expected:
        return [], known
    if expected and present != expected:
        if dry_run:
            return [], expected  # it is to be shipped by the step before, which is a dry run as well
        if present:
            raise _wrong_image(image, present, expected)
        raise _missing_image(image)
    if present and wanted.pull != "always":
        return [], present
    if wanted.pull == "never":
        raise _missing_image(image)
    reason = "pull: always" if present else "not on this host"
    return [Step("image", image, "pull", reason=reason, pull=wanted.pull, expected_id=expected)], ""


def _plan_existing(
    wanted: WantedContainer, actual: ActualContainer, options: Options, image: str, image_id: str
) -> list[Step]:
    partial = not actual.ours or not image
    difference = compare(options, actual.options, partial=partial)
    moved = _image_moved(actual, image, image_id)
    difference = moved.merge(difference) if moved else difference
    judged = verdict(difference)
    if wanted.recreate == "always":
        judged = Verdict.REPLACE
    elif wanted.recreate == "never" and judged is Verdict.REPLACE:
        judged = Verdict.KEEP
        difference = Difference()
    target = overlay(actual.options, options) if partial else options
    runs_after = {"started": True, "stopped": False, "present": actual.running}[wanted.state]
    if judged is Verdict.REPLACE:
        reason = ("recreate: always" if not difference else "") or _reason(difference)
        first = actual.running and runs_after and wants_start_first(wanted, target)
        args = (difference, reason, wanted, target, runs_after, first)
        return [Step("container", wanted.name, "replace", *args)]
    steps: list[Step] = []
    if judged is Verdict.UPDATE:
        steps.append(
            Step("container", wanted.name, "update", difference, _reason(difference), wanted, target)
        )
    if runs_after != actual.running or (runs_after and actual.paused):
        steps.append(_run_step(wanted, actual, runs_after))
    return steps or [Step("container", wanted.name, "keep", wanted=wanted)]


def _run_step(wanted: WantedContainer, actual: ActualContainer, run: bool) -> Step:
    now = "paused" if actual.paused else "running" if actual.running else "stopped"
    shown = Difference({"State": now}, {"State": "running" if run else "stopped"})
    return Step("container", wanted.name, "start" if run else "stop", shown, f"is {now}", wanted)


def _image_moved(actual: ActualContainer, image: str, image_id: str) -> Difference:
    """Images are the same when their ids are; without an id (it is still to be pulled) by reference."""
    if not image:
        return Difference()
    if image_id and image_id == actual.image_id:
        return Difference()
    if not image_id and image == actual.image:
        return Difference()  # `pull: always`: planned again once the pull is done
    before: dict[str, Any] = {"Image": actual.image, "ImageID": actual.image_id}
    after: dict[str, Any] = {"Image": image, **({"ImageID": image_id} if image_id else {})}
    return Difference(before, after)


def _reason(difference: Difference) -> str:
    names = [key.removeprefix("HostConfig.") for key in difference.keys if key != "ImageID"]
    moved = "Image" in names and difference.before.get("Image") == difference.after.get("Image")
    listed = ", ".join(names)
    return f"{listed} changed" + (" (the tag moved to another image)" if moved else "")


def wants_start_first(wanted: WantedContainer, options: Options) -> bool:
    """Whether old and new run side by side until the new one is ready.

    By default only where that pays, with a fixed published port, and where it is safe: two generations
    that write to one volume may destroy it, and two that share the host's network want the same port.
    """
    if wanted.order != "auto":
        return wanted.order == "start-first"
    if options.get("HostConfig.NetworkMode", "bridge") in ("host", "none"):
        return False
    return bool(fixed_ports(options.get("HostConfig.PortBindings"))) and not _writes_volumes(options)


def _writes_volumes(options: Options) -> bool:
    binds: Sequence[str] = options.get("HostConfig.Binds", ())
    mounts: Sequence[Mapping[str, Any]] = options.get("HostConfig.Mounts", ())
    return any("ro" not in bind.split(":")[-1].split(",") for bind in binds) or any(
        mount.get("Type") != "tmpfs" and not mount.get("ReadOnly") for mount in mounts
    )


def _removal(actual: ActualContainer, reason: str, wanted: WantedContainer | None = None) -> Step:
    shown = Difference({"Image": actual.image, "State": "running" if actual.running else "stopped"}, {})
    return Step("container", actual.name, "remove", shown, reason, wanted)


def _plan_prune(request: ApplyRequest, host: ActualHost) -> list[Step]:
    scope = request.scope
    if scope is None or not scope.prune:
        return []
    named = {wanted.name for wanted in request.containers}
    return [
        _removal(actual, f"not wanted any more in {scope.label}")
        for name, actual in sorted(host.containers.items())
        if name not in named and in_scope(actual.labels, scope.label)
    ]


def in_scope(labels: Mapping[str, str], selector: str) -> bool:
    key, sign, value = selector.partition("=")
    return key in labels and (not sign or labels[key] == value)


def _missing_image(name: str) -> NotFound:
    return NotFound(f"No such image: {name}", hint="ship it with longshore.fleet.image, or let it be pulled")


def _wrong_image(name: str, present: str, wanted: str) -> Conflict:
    return Conflict(
        f"{name} is not the wanted image", detail=f"it is {present[:19]} here, wanted is {wanted[:19]}"
    )
