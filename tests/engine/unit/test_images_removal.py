"""docker rmi's judgement in tables: dockerd's rules and words."""

import pytest

from longshore.core.images.model import Image
from longshore.core.images.removal import Surroundings, plan_removal
from longshore.errors import Conflict
from longshore.oci.descriptor import OCI_MANIFEST, Descriptor
from longshore.oci.digest import Digest, sha256_of
from longshore.oci.image_config import ImageConfig, RootFS
from longshore.oci.reference import parse_reference

DIGEST = "sha256:" + "d" * 64


def image(name: str, *names: str, parent: Image | None = None) -> Image:
    parsed = [parse_reference(text) for text in names]
    return Image(
        id=sha256_of(name.encode()),
        config=ImageConfig("amd64", "linux", RootFS()),
        raw_config=b"",
        layers=(),
        manifest=Descriptor(OCI_MANIFEST, DIGEST, 1),
        size=0,
        created="",
        parent=parent.id if parent else None,
        references=tuple(reference.canonical for reference in parsed),
        tags=tuple(reference.familiar for reference in parsed if not reference.digest),
        digests=tuple(reference.familiar for reference in parsed if reference.digest),
    )


class World:
    """Images and who uses them: {image: (all containers, running ones)}."""

    def __init__(self, *images: Image, stopped: Image | None = None, running: Image | None = None) -> None:
        self._images = {one.id: one for one in images}
        self._stopped, self._running = stopped, running

    def around(self) -> Surroundings:
        return Surroundings(self._children, self._containers, self._run, self._images.get)

    def _children(self, id: Digest) -> list[Digest]:
        return [one.id for one in self._images.values() if one.parent == id]

    def _containers(self, id: Digest) -> list[str]:
        stopped = ["5" * 64] if self._stopped and self._stopped.id == id else []
        return stopped + self._run(id)

    def _run(self, id: Digest) -> list[str]:
        return ["7" * 64] if self._running and self._running.id == id else []


ONE = image("one", "app:1")
TWO = image("two", "app:1", "other:2")
PULLED = image("pulled", "app:1", f"app@{DIGEST}")
BARE = image("bare")


@pytest.mark.parametrize(
    ("target", "name", "force", "unnamed", "deleted"),
    [
        (ONE, "app:1", False, ["app:1"], [ONE]),
        (ONE, ONE.id.hex, False, ["app:1"], [ONE]),
        (ONE, ONE.id.short, False, ["app:1"], [ONE]),
        (ONE, str(ONE.id), False, ["app:1"], [ONE]),
        (TWO, "app:1", False, ["app:1"], []),
        (TWO, TWO.id.short, True, ["app:1", "other:2"], [TWO]),
        (PULLED, "app:1", False, ["app:1", f"app@{DIGEST}"], [PULLED]),
        (PULLED, f"app@{DIGEST}", False, [f"app@{DIGEST}"], []),
        (PULLED, PULLED.id.short, False, ["app:1", f"app@{DIGEST}"], [PULLED]),
        (BARE, BARE.id.short, False, [], [BARE]),
    ],
)
def test_names_and_images_that_go(
    target: Image, name: str, force: bool, unnamed: list[str], deleted: list[Image]
) -> None:
    plan = plan_removal(target, name, World(target).around(), force=force, prune=True)
    assert sorted(parse_reference(gone).familiar for gone, _ in plan.unname) == sorted(unnamed)
    assert plan.delete == [one.id for one in deleted]


CHILD = image("child", parent=ONE)


@pytest.mark.parametrize(
    ("world", "target", "name", "force", "words"),
    [
        (
            World(ONE, stopped=ONE),
            ONE,
            "app:1",
            False,
            f'conflict: unable to remove repository reference "app:1" (must force) - container {"5" * 12}'
            f" is using its referenced image {ONE.id.short}",
        ),
        (
            World(TWO),
            TWO,
            TWO.id.short,
            False,
            f"conflict: unable to delete {TWO.id.short} (must be forced)"
            " - image is referenced in multiple repositories",
        ),
        (
            World(BARE, stopped=BARE),
            BARE,
            BARE.id.short,
            False,
            f"conflict: unable to delete {BARE.id.short} (must be forced)"
            f" - image is being used by stopped container {'5' * 12}",
        ),
        (
            World(BARE, running=BARE),
            BARE,
            BARE.id.short,
            True,
            f"conflict: unable to delete {BARE.id.short} (cannot be forced)"
            f" - image is being used by running container {'7' * 12}",
        ),
        (
            World(ONE, CHILD),
            ONE,
            ONE.id.short,
            True,
            f"conflict: unable to delete {ONE.id.short} (cannot be forced) - image has dependent child images",
        ),
    ],
)
def test_conflicts_say_what_dockerd_says(
    world: World, target: Image, name: str, force: bool, words: str
) -> None:
    with pytest.raises(Conflict) as caught:
        plan_removal(target, name, world.around(), force=force, prune=True)
    assert str(caught.value) == words


def test_a_name_goes_though_a_running_container_keeps_the_image() -> None:
    plan = plan_removal(ONE, "app:1", World(ONE, running=ONE).around(), force=True, prune=True)
    assert ([gone for gone, _ in plan.unname], plan.delete) == (["docker.io/library/app:1"], [])


def test_a_stopped_containers_image_goes_by_force() -> None:
    assert plan_removal(
        BARE, BARE.id.short, World(BARE, stopped=BARE).around(), force=True, prune=True
    ).delete


def test_a_name_goes_though_children_keep_the_image() -> None:
    plan = plan_removal(ONE, "app:1", World(ONE, CHILD).around(), force=False, prune=True)
    assert (len(plan.unname), plan.delete) == (1, [])


def test_nameless_parents_go_along_until_something_needs_one() -> None:
    base = image("base", "base:1")
    first = image("first", parent=base)
    second = image("second", parent=first)
    top = image("top", "app:1", parent=second)
    around = World(base, first, second, top).around()
    assert plan_removal(top, "app:1", around, force=False, prune=True).delete == [top.id, second.id, first.id]
    assert plan_removal(top, "app:1", around, force=False, prune=False).delete == [top.id]
    sibling = image("sibling", parent=first)
    around = World(base, first, second, top, sibling).around()
    assert plan_removal(top, "app:1", around, force=False, prune=True).delete == [top.id, second.id]
    around = World(base, first, second, top, stopped=second).around()
    assert plan_removal(top, "app:1", around, force=True, prune=True).delete == [top.id]


def test_a_name_that_looks_like_an_id_is_a_name() -> None:
    odd = image("odd", "other:1")
    lookalike = image("odd", f"{odd.id.short}:latest", "other:1")
    plan = plan_removal(lookalike, odd.id.short, World(lookalike).around(), force=False, prune=True)
    assert [gone for gone, _ in plan.unname] == [f"docker.io/library/{odd.id.short}:latest"]
    assert plan.delete == []
