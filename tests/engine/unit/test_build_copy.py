"""COPY and ADD over trees: where things land, what follows links, what the cache sees."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from longshore.build.chmod import parse_mode
from longshore.build.context import decompressed
from longshore.build.copying import Placed, Request, Source, digest_of, plan_copy, plan_directory, write_layer
from longshore.build.trees import LayersTree, TarTree, Tree, WithoutIgnored, resolve
from longshore.errors import InvalidArgument
from longshore.oci.ignore import Ignore


def tar_of(*members: tuple[str, bytes | str | None]) -> io.BytesIO:
    """("file", b"data"), ("link", "-> target") or ("folder/", None)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode = 0o640
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o750
                archive.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content.removeprefix("-> ")
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    stream.seek(0)
    return stream


def context(*members: tuple[str, bytes | str | None]) -> TarTree:
    return TarTree(tar_of(*members))


@pytest.fixture
def image(tmp_path: Path) -> LayersTree:
    """Two layers like Debian's: /bin is a link, /tmp has the sticky bit, the newer layer hides a file."""
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "usr/bin").mkdir(parents=True)
    (old / "bin").symlink_to("usr/bin")
    (old / "tmp").mkdir()
    (old / "tmp").chmod(0o1777)
    (old / "etc").mkdir()
    (old / "etc/gone").write_text("hidden")
    (old / "etc/kept").write_text("kept")
    (new / "etc").mkdir(parents=True)
    (new / "etc/new").write_text("new")
    try:
        os.mknod(new / "etc/gone", 0o020000, 0)  # a whiteout
    except PermissionError:
        (old / "etc/gone").unlink()  # without root the rest still says something
    return LayersTree([new, old])


def placed_of(
    request: Request, paths: tuple[str, ...], source: Tree, image: Tree, *, unpack: bool = False
) -> list[Placed]:
    return plan_copy(request, [Source(source, paths, unpack, root_owned=True)], image, decompressed)


def plan(
    request: Request, paths: tuple[str, ...], source: Tree, image: Tree, *, unpack: bool = False
) -> dict[str, Placed]:
    return {item.target: item for item in placed_of(request, paths, source, image, unpack=unpack)}


def test_layers_merge_as_overlayfs_does(image: LayersTree) -> None:
    assert image.children("/etc") == ["kept", "new"]
    assert image.entry("/etc/gone") is None
    assert resolve(image, "/bin/sh") == "/usr/bin/sh"


def test_a_file_lands_in_an_existing_directory_and_links_in_its_path_are_followed(image: LayersTree) -> None:
    placed = plan(Request("COPY", "/bin"), ("tool",), context(("tool", b"x")), image)
    assert list(placed) == ["/usr", "/usr/bin", "/usr/bin/tool"]


def test_parents_keep_what_the_image_says_of_them(image: LayersTree) -> None:
    placed = plan(Request("COPY", "/tmp/deep/a"), ("a",), context(("a", b"x")), image)
    assert placed["/tmp"].entry.mode == 0o1777
    assert placed["/tmp/deep"].entry.mode == 0o755


def test_the_contents_of_a_directory_are_copied_not_the_directory(image: LayersTree) -> None:
    source = context(("d/", None), ("d/one", b"1"), ("d/bin/", None), ("d/bin/two", b"2"))
    placed = plan(Request("COPY", "/"), ("d",), source, image)
    assert {"/one", "/usr/bin/two"} <= set(placed)
    assert "/d" not in placed


def test_patterns_match_per_component(image: LayersTree) -> None:
    source = context(("src/a.py", b""), ("src/b.py", b""), ("src/sub/c.py", b""), ("src/d.txt", b""))
    placed = plan(Request("COPY", "/app/"), ("src/*.py",), source, image)
    assert [path for path in placed if path.endswith(".py")] == ["/app/a.py", "/app/b.py"]


@pytest.mark.parametrize(
    ("request_", "paths", "problem"),
    [
        (Request("COPY", "/x"), ("nothing",), "file not found in build context"),
        (Request("COPY", "/x"), ("a", "b"), "must be a directory and end with a /"),
        (Request("COPY", "/etc/kept/x"), ("a",), "non-directory"),
        (Request("COPY", "/x"), ("../../etc/passwd",), "file not found in build context"),
    ],
)
def test_impossible_copies_are_refused(
    request_: Request, paths: tuple[str, ...], problem: str, image: LayersTree
) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        plan(request_, paths, context(("a", b"1"), ("b", b"2")), image)


def test_a_link_in_the_context_leads_nowhere_outside(image: LayersTree) -> None:
    source = context(("up", "-> ../../../../etc"), ("etc/passwd", b"the context's own"))
    placed = plan(Request("COPY", "/x"), ("up/passwd",), source, image)
    with placed["/x"].tree.open(placed["/x"].entry) as stream:
        assert stream.read() == b"the context's own"


def test_add_unpacks_a_local_archive_and_copy_does_not(image: LayersTree) -> None:
    archive = gzip.compress(tar_of(("inside", b"x")).getvalue())
    source = context(("a.tar.gz", archive))
    assert "/opt/inside" in plan(Request("ADD", "/opt/"), ("a.tar.gz",), source, image, unpack=True)
    assert "/opt/a.tar.gz" in plan(Request("COPY", "/opt/"), ("a.tar.gz",), source, image)


def test_the_cache_digest_sees_contents_and_modes_but_no_times(image: LayersTree) -> None:
    def digest(stream: io.BytesIO) -> str:
        return digest_of(placed_of(Request("COPY", "/x"), ("a",), TarTree(stream), image))

    first, other_time = tar_of(("a", b"1")), io.BytesIO()
    with tarfile.open(fileobj=other_time, mode="w") as archive:
        info = tarfile.TarInfo("a")
        info.size, info.mode, info.mtime = 1, 0o640, 12345
        archive.addfile(info, io.BytesIO(b"1"))
    other_time.seek(0)
    assert digest(first) == digest(other_time)
    assert digest(tar_of(("a", b"1"))) != digest(tar_of(("a", b"2")))


def test_the_layer_has_the_owner_and_mode_asked_for(image: LayersTree) -> None:
    request = Request("COPY", "/tmp/a", owner=(33, 34), mode=parse_mode("0755"))
    out = io.BytesIO()
    write_layer(placed_of(request, ("a",), context(("a", b"data")), image), out.write)
    out.seek(0)
    with tarfile.open(fileobj=out) as layer:
        names = layer.getnames()
        member = layer.getmember("tmp/a")
        assert names == ["tmp", "tmp/a"]
        assert (member.uid, member.gid, member.mode) == (33, 34, 0o755)
        assert layer.getmember("tmp").mode == 0o1777
        stream = layer.extractfile(member)
        assert stream is not None
        assert stream.read() == b"data"


def test_workdir_is_made_only_when_missing(image: LayersTree) -> None:
    assert plan_directory("/etc", image) == []
    assert [item.target for item in plan_directory("/srv/app", image)] == ["/srv", "/srv/app"]


def test_from_scratch_has_an_empty_root() -> None:
    placed = plan(Request("COPY", "/"), ("a",), context(("a", b"1")), LayersTree([]))
    assert list(placed) == ["/a"]


def test_excluded_files_stay_out_and_exceptions_come_back(image: LayersTree) -> None:
    source = context(("d/a.txt", b""), ("d/b.md", b""), ("d/sub/c.txt", b""), ("d/sub/keep.txt", b""))
    request = Request("COPY", "/x/", exclude=("**/*.txt", "!sub/keep.txt"))
    files = [path for path, item in plan(request, ("d",), source, image).items() if item.entry.is_file]
    assert files == ["/x/b.md", "/x/sub/keep.txt"]


@pytest.mark.parametrize(
    ("paths", "targets"),
    [
        (("x/a.txt", "y/b.txt"), ["/p/x/a.txt", "/p/y/b.txt"]),
        (("x/./sub/c.txt",), ["/p/sub/c.txt"]),
        (("**/*.txt",), ["/p/x/a.txt", "/p/x/sub/c.txt", "/p/y/b.txt"]),
        (("x",), ["/p/x/a.txt", "/p/x/sub/c.txt"]),
    ],
)
def test_parents_keep_the_path_from_the_pivot(
    paths: tuple[str, ...], targets: list[str], image: LayersTree
) -> None:
    source = context(("x/a.txt", b""), ("x/sub/c.txt", b""), ("y/b.txt", b""))
    placed = plan(Request("COPY", "/p", parents=True), paths, source, image)
    assert [path for path, item in placed.items() if item.entry.is_file] == targets


def test_owners_of_an_archive_stay_and_those_of_the_context_do_not(image: LayersTree) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("inside")
        info.uid = 7
        archive.addfile(info)
    source = context(("a.tar", stream.getvalue()))
    assert plan(Request("ADD", "/o/"), ("a.tar",), source, image, unpack=True)["/o/inside"].entry.uid == 7
    owned = io.BytesIO(stream.getvalue())
    assert plan(Request("COPY", "/o/"), ("inside",), TarTree(owned), image)["/o/inside"].entry.uid == 0


def test_what_is_ignored_is_not_there_but_its_folders_are(image: LayersTree) -> None:
    tree = WithoutIgnored(
        context(("a/b/keep", b""), ("a/b/drop", b""), ("c", b"")), Ignore("a\n!a/b/keep\nc")
    )
    assert tree.children("/") == ["a"]
    assert tree.children("/a/b") == ["keep"]
    assert tree.entry("/c") is None
    with pytest.raises(InvalidArgument, match=r"excluded by \.dockerignore"):
        plan(Request("COPY", "/x"), ("c",), tree, image)


@pytest.mark.parametrize(
    ("text", "before", "directory", "after"),
    [
        ("0755", 0o600, False, 0o755),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("+x", 0o640, False, 0o751),
        ("go-rwx", 0o777, False, 0o700),
        ("g=u", 0o640, False, 0o660),
        ("u+s,+t", 0o755, False, 0o5755),
        ("a=r", 0o2775, True, 0o2444),
    ],
)
def test_chmod_as_the_command_has_it(text: str, before: int, directory: bool, after: int) -> None:
    assert parse_mode(text)(before, directory) == after


@pytest.mark.parametrize("text", ["", "8", "10000", "u=q", "x", "rwx", "u~r"])
def test_modes_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid chmod parameter"):
        parse_mode(text)
