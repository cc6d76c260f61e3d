from datetime import UTC, datetime

import pytest

from longshore.core.images.filters import filter_images, history_of
from longshore.core.images.model import Image, Layer
from longshore.errors import InvalidArgument, NotFound
from longshore.oci.descriptor import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from longshore.oci.digest import Digest, sha256_of
from longshore.oci.image_config import ContainerDefaults, History, ImageConfig, RootFS

NOW = datetime(2024, 1, 10, tzinfo=UTC)
EMPTY = str(sha256_of(b""))


def image(
    name: str, day: int, *tags: str, labels: dict[str, str] | None = None, parent: Digest | None = None
) -> Image:
    history = [
        History(created_by="ADD"),
        History(created_by="CMD", empty_layer=True),
        History(created_by="RUN"),
    ]
    layers = [Layer(Descriptor(OCI_LAYER_GZIP, EMPTY, 1), sha256_of(bytes([n])), size=n * 10) for n in (1, 2)]
    return Image(
        id=sha256_of(name.encode()),
        config=ImageConfig(
            "amd64", "linux", RootFS(), config=ContainerDefaults(labels=labels), history=history
        ),
        raw_config=b"",
        layers=tuple(layers),
        manifest=Descriptor(OCI_MANIFEST, EMPTY, 1),
        size=30,
        created=f"2024-01-{day:02}T00:00:00.123456789Z",
        parent=parent,
        tags=tags,
    )


A = image("a", 1, "busybox:latest", "busybox:1.36", labels={"tier": "base"})
B = image("b", 3, "quay.io/me/app:v1", labels={"tier": "app", "x": ""})
C = image("c", 9)
ALL = [C, B, A]


def find(name: str) -> Image:
    for one in ALL:
        if name in one.tags:
            return one
    raise NotFound(f"No such image: {name}")


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, "cba"),
        ({"dangling": ["true"]}, "c"),
        ({"dangling": ["0"]}, "ba"),
        ({"label": ["tier"]}, "ba"),
        ({"label": ["tier=app"]}, "b"),
        ({"label": ["tier", "x"]}, "b"),
        ({"label!": ["tier=app"]}, "ca"),
        ({"before": ["quay.io/me/app:v1"]}, "a"),
        ({"since": ["busybox:latest"]}, "cb"),
        ({"until": ["48h"]}, "ba"),
        ({"until": ["2024-01-02T00:00:00Z"]}, "a"),
        ({"until": ["2024-01-02"]}, "a"),
        ({"until": ["1704153600"]}, "a"),
        ({"reference": ["busybox"]}, "a"),
        ({"reference": ["busy*:latest"]}, "a"),
        ({"reference": ["*"]}, "a"),
        ({"reference": ["quay.io/*/app"]}, "b"),
        ({"reference": ["quay.io/*"]}, ""),
        ({"reference": ["*/*/*:v[0-9]"]}, "b"),
        ({"reference": ["busybox", "quay.io/me/app:v1"]}, "ba"),
        ({"reference": ["busybox:1?36"], "label": ["tier=app"]}, ""),
    ],
)
def test_filters(filters: dict[str, list[str]], names: str) -> None:
    by_id = {one.id: name for name, one in zip("abc", (A, B, C), strict=True)}
    assert "".join(by_id[one.id] for one in filter_images(ALL, filters, find, NOW)) == names


def test_a_reference_filter_shows_only_the_names_that_fit() -> None:
    (shown,) = filter_images(ALL, {"reference": ["busybox:1.*"]}, find, NOW)
    assert shown.tags == ("busybox:1.36",)


@pytest.mark.parametrize(
    "filters",
    [{"nothing": ["x"]}, {"dangling": ["maybe"]}, {"dangling": ["true", "false"]}, {"until": ["yesterday"]}],
)
def test_bad_filters_are_refused(filters: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter"):
        filter_images(ALL, filters, find, NOW)


def test_a_filter_on_an_unknown_image() -> None:
    with pytest.raises(NotFound, match="No such image: nope"):
        filter_images(ALL, {"before": ["nope"]}, find, NOW)


def test_history_counts_layers_only_for_steps_that_made_one() -> None:
    child = image("child", 5, "child:1", parent=A.id)
    rows = history_of(child, {A.id: A}.get)
    assert [row["CreatedBy"] for row in rows] == ["RUN", "CMD", "ADD"]
    assert [row["Size"] for row in rows] == [20, 0, 10]
    assert [row["Id"] for row in rows] == [str(child.id), str(A.id), "<missing>"]
    assert rows[0]["Tags"] == ["child:1"]
