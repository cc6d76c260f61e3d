"""Attack 16: mounts of RUN that try to reach the host: paths that climb out, links, swaps during the build, teardown."""

import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attack_lab import below
from runtime_lab import needs_root
from tests.engine.compat.build_lab import build, good, output
from tests.engine.images import busybox_layer, docker_archive

pytestmark = needs_root


@pytest.fixture
def bait(daemon: Any, tmp_path: Path) -> Iterator[Path]:
    """A folder of the host with a file that nobody in a build may see, change or delete."""
    if daemon.request("GET", "/images/busybox/json")[0] != 200:
        daemon.load()
    folder = tmp_path / "host"
    (folder / "deep").mkdir(parents=True)
    (folder / "bait").write_text("the host's\n")
    (folder / "deep/bait").write_text("the host's\n")
    yield folder
    daemon.request("POST", "/build/prune?all=1")


def load_with_links(daemon: Any, tag: str, links: dict[str, str]) -> None:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    defaults = {"Cmd": ["sh"], "Env": ["PATH=/bin"]}
    daemon.load(docker_archive([busybox_layer(), layer.getvalue()], tag, defaults))


@pytest.mark.parametrize("kind", ["bind", "cache"])
@pytest.mark.parametrize("origin", ["image", "context", "dots"])
def test_attack_16_sources_that_lead_outside(daemon: Any, bait: Path, kind: str, origin: str) -> None:
    """CVE-2024-11218, CVE-2024-9407. `source=` is a link to a folder of the host, or climbs out of an image, the
    context or a cache folder. Fails when a source is resolved by the host's kernel, or joined to a path."""
    load_with_links(daemon, "links:1", {"out": str(bait), "up": "../../../../../../../.." + str(bait)})
    climbing = "../" * 40 + str(bait).lstrip("/")
    places = {
        "image": ("from=links:1,", ["out", "up", "/out/deep", climbing]),
        "context": ("" if kind == "bind" else "from=links:1,", ["out", "out/deep", climbing]),
        "dots": ("" if kind == "cache" else "from=links:1,", [climbing, str(bait)]),
    }
    flags, sources = places[origin]
    for source in sources:
        text = f"FROM busybox\nRUN --mount=type={kind},{flags}source={source},target=/m,rw cat /m/bait; echo x > /m/bait; true\n"
        built = build(daemon, text, {"out": f"-> {bait}"})
        assert "the host's" not in built.text, built
    assert {path.read_text() for path in bait.rglob("bait")} == {"the host's\n"}
    daemon.request("DELETE", "/images/links:1?force=1")


def test_attack_16_targets_that_are_links(daemon: Any, bait: Path) -> None:
    """CVE-2024-23652. The mount point is below a link of the image to the host, and goes away after the step. Fails
    when mount points are made, or empty ones removed, by a path that the host's kernel resolves."""
    load_with_links(daemon, "links:2", {"out": str(bait), "up": "../../../../../.." + str(bait)})
    (bait / "empty").mkdir()
    before = below(bait)
    for target in ("/out/empty", "/out/new/deep", "/up/empty", "/out/../../../../.." + str(bait) + "/empty"):
        for kind in ("tmpfs", "cache", "bind,from=busybox"):
            build(daemon, f"FROM links:2\nRUN --mount=type={kind},target={target} true\n", nocache="1")
    assert below(bait) == before
    daemon.request("DELETE", "/images/links:2?force=1")


def test_attack_16_a_step_that_swaps_its_mount_points(daemon: Any, bait: Path) -> None:
    """CVE-2024-23652. The step replaces a parent of its mount point by a link to the host before it ends. Fails when
    clean-up follows links of the step's own files."""
    (bait / "point").mkdir()
    before = below(bait)
    swap = f"mkdir /a/keep && umount /a/point 2>/dev/null; mv /a /b 2>/dev/null; ln -s {bait} /a; true"
    build(daemon, f"FROM busybox\nRUN --mount=type=tmpfs,target=/a/point {swap}\n")
    build(
        daemon,
        f"FROM busybox\nRUN mkdir -p /c && ln -s {bait} /c/d\nRUN --mount=type=tmpfs,target=/c/d/point true\n",
    )
    assert below(bait) == before


def test_attack_16_a_cache_folder_that_is_swapped_during_the_build(daemon: Any, bait: Path) -> None:
    """CVE-2024-23651. One build renames a folder of a shared cache to a link in a loop while others mount it by
    source=. Fails when the path inside of the cache folder is resolved before it is opened, or follows links."""
    spin = (
        f"ln -s {bait} /c/link; n=0; while [ $n -lt 60 ]; do mkdir -p /c/sub; usleep 3000; "
        "mv /c/sub /c/old; mv /c/link /c/sub; usleep 3000; mv /c/sub /c/link; rm -rf /c/old; n=$((n+1)); done"
    )
    looper = threading.Thread(
        target=lambda: build(
            daemon, f"FROM busybox\nRUN --mount=type=cache,id=swap,target=/c {spin}\n", nocache="1"
        )
    )
    looper.start()
    said = ""
    while looper.is_alive():
        text = "FROM busybox\nRUN --mount=type=cache,id=swap,source=sub,target=/m cat /m/bait; echo x > /m/bait; true\n"
        said += build(daemon, text, nocache="1").text
    looper.join()
    assert "the host's" not in said
    assert {path.read_text() for path in bait.rglob("bait")} == {"the host's\n"}


def test_attack_16_pruning_a_cache_full_of_links(daemon: Any, bait: Path) -> None:
    """CVE-2024-23652, CVE-2024-9676. A cache folder holds links to the host and deep trees; it is pruned. Fails when
    the removal follows them."""
    good(
        daemon,
        f"FROM busybox\nRUN --mount=type=cache,target=/c ln -s {bait} /c/link; ln -s / /c/root; mkdir -p /c/d && "
        f"ln -s {bait}/deep /c/d/x; chmod 000 /c/d\n",
    )
    before = below(bait)
    reply = daemon.request("POST", "/build/prune?all=1")[1]
    assert reply["CachesDeleted"]
    assert below(bait) == before


def test_attack_16_what_a_step_writes_into_its_mounts_stays_in_no_layer(daemon: Any, bait: Path) -> None:
    """A writable bind of the context, of another stage and of an image takes what is written, and loses it. Fails when
    a bind mount is writable itself: the other stage would be changed, and with it the cache."""
    text = (
        "FROM busybox AS other\nRUN echo clean > /f\nFROM busybox\n"
        "RUN --mount=type=bind,from=other,target=/o,rw echo dirty > /o/f; rm /o/bin/sh; mkdir /o/new\n"
        "RUN --mount=from=other,target=/o cat /o/f; test -e /o/new || test -e /o/bin/sh && echo still\n"
    )
    built = build(daemon, text)
    assert "\nclean\nstill\n" in built.text, built
    assert output(daemon, good(daemon, text.partition("FROM busybox\n")[0]).id, "cat", "/f") == "clean\n"
    assert (bait / "bait").exists()
