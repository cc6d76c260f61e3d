"""What `docker rmi` does to names and images, judged before anything is touched. Pure.

The rules and texts are dockerd's (https://docs.docker.com/reference/cli/docker/image/rm/): a name is taken away
first; the image goes with its last name; children and running containers forbid it, other names and stopped
containers want force.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from longshore.core.images.model import Image
from longshore.errors import Conflict
from longshore.oci.digest import Digest
from longshore.oci.reference import Reference, parse_reference


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the judgement needs to know about everything else."""

    children: Callable[[Digest], Sequence[Digest]]
    containers: Callable[[Digest], Sequence[str]]
    running: Callable[[Digest], Sequence[str]]
    find: Callable[[Digest], Image | None]


@dataclass(slots=True)
class Removal:
    """The plan: names to take away, then images to delete, in order."""

    unname: list[tuple[str, Digest]] = field(default_factory=list[tuple[str, Digest]])
    delete: list[Digest] = field(default_factory=list[Digest])


def plan_removal(image: Image, name: str, around: Surroundings, *, force: bool, prune: bool) -> Removal:
    """Plan the removal of an image that was found by `name`. Raises Conflict."""
    plan = Removal()
    left = list(image.references)
    by_name = not _is_id(image, name)
    if by_name:
        reference = parse_reference(name).with_default_tag()
        if not force and _is_single(left) and (users := around.containers(image.id)):
            raise Conflict(
                f'conflict: unable to remove repository reference "{name}" (must force)'
                f" - container {users[0][:12]} is using its referenced image {image.id.short}"
            )
        for gone in _with_digests(reference, left):
            left.remove(gone)
            plan.unname.append((gone, image.id))
        if left:
            return plan
    elif _is_single(left):
        _check(image, [], around, force=force)
        plan.unname += [(gone, image.id) for gone in left]
        left = []
    _plan_image(plan, image, left, around, force=force, prune=prune, quiet=by_name)
    return plan


def _plan_image(
    plan: Removal,
    image: Image,
    left: Sequence[str],
    around: Surroundings,
    *,
    force: bool,
    prune: bool,
    quiet: bool,
) -> None:
    """Delete an image and then, where asked, the parents that nothing else needs."""
    try:
        _check(image, left, around, force=force, going=frozenset(plan.delete))
    except Conflict:
        # The name is gone, as asked; that the image itself stays is no failure while others need it
        if quiet and (around.containers(image.id) or around.children(image.id) or left):
            return
        raise
    plan.unname += [(gone, image.id) for gone in left]
    plan.delete.append(image.id)
    parent = around.find(image.parent) if prune and image.parent else None
    if parent is not None and not parent.hidden:
        _plan_image(plan, parent, parent.references, around, force=False, prune=True, quiet=True)


def _check(
    image: Image,
    left: Sequence[str],
    around: Surroundings,
    *,
    force: bool,
    going: frozenset[Digest] = frozenset(),
) -> None:
    """Raises Conflict with dockerd's reason: "cannot be forced" for hard ones, "must be forced" for others."""

    def conflict(reason: str, *, hard: bool) -> Conflict:
        remedy = "cannot be forced" if hard else "must be forced"
        return Conflict(f"conflict: unable to delete {image.id.short} ({remedy}) - {reason}")

    if set(around.children(image.id)) - going:
        raise conflict("image has dependent child images", hard=True)
    if running := around.running(image.id):
        raise conflict(f"image is being used by running container {running[0][:12]}", hard=True)
    if force:
        return
    if left:
        raise conflict("image is referenced in multiple repositories", hard=False)
    if users := around.containers(image.id):
        raise conflict(f"image is being used by stopped container {users[0][:12]}", hard=False)


def _is_id(image: Image, name: str) -> bool:
    """An id or a prefix of it, unless the image has just that name."""
    if name in image.tags or f"{name}:latest" in image.tags:
        return False
    return image.id.hex.startswith(name.removeprefix("sha256:"))


def _is_single(references: Sequence[str]) -> bool:
    """At most one tag, and digests only of that one repository."""
    parsed = [parse_reference(name) for name in references]
    tags = [name for name in parsed if not name.digest]
    return len(parsed) <= 1 or (len(tags) <= 1 and len({name.name for name in parsed}) == 1)


def _with_digests(reference: Reference, references: Sequence[str]) -> list[str]:
    """The name itself; with a repository's last tag also its digests, which came with it."""
    gone = [reference.canonical]
    others = [parse_reference(name) for name in references if name != reference.canonical]
    same = [name for name in others if name.name == reference.name]
    if not reference.digest and all(name.digest for name in same):
        gone += [name.canonical for name in same]
    return gone
