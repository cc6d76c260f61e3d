"""Paths below a root by openat2(2): links and dot-dot stay inside, missing parts are made."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.kernel.paths import clean, is_null_device, make_directories, make_file, openat2


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    folder = tmp_path / "root"
    folder.mkdir()
    fd = os.open(folder, os.O_PATH)
    yield fd, folder
    os.close(fd)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("", "/"), ("a", "/a"), ("/a/../../b", "/b"), ("//a//b/", "/a/b"), ("/./a", "/a"), ("/..", "/")],
)
def test_clean(path: str, expected: str) -> None:
    assert clean(path) == expected


LINKS = [
    ("/outside", "absolute"),
    ("../../outside", "relative"),
    ("/a/b/../../../../outside", "climbing"),
]


@pytest.mark.parametrize(("target", "name"), LINKS)
def test_links_stay_inside(root: tuple[int, Path], tmp_path: Path, target: str, name: str) -> None:
    fd, folder = root
    (tmp_path / "outside").mkdir()
    (folder / "a/b").mkdir(parents=True)
    (folder / name).symlink_to(target)
    os.close(make_directories(fd, f"/{name}/made"))
    assert not list((tmp_path / "outside").iterdir())
    assert (folder / "outside/made").is_dir()


def test_files_get_their_parents_and_are_not_overwritten(root: tuple[int, Path]) -> None:
    fd, folder = root
    os.close(make_file(fd, "/a/b/file"))
    assert (folder / "a/b/file").read_bytes() == b""
    (folder / "a/b/file").write_text("kept")
    os.close(make_file(fd, "/a/b/file"))
    assert (folder / "a/b/file").read_text() == "kept"
    (folder / "link").symlink_to("/new/place")
    os.close(make_file(fd, "/link"))
    assert stat.S_ISREG((folder / "new/place").lstat().st_mode)


def test_a_loop_and_a_file_in_the_way_are_errors(root: tuple[int, Path]) -> None:
    fd, folder = root
    (folder / "loop").symlink_to("loop")
    (folder / "file").touch()
    for path in ("/loop/x", "/file/x", "/loop"):
        with pytest.raises(OSError, match=r"(?i)too many levels|not a directory"):
            make_directories(fd, path)


def test_magic_links_are_refused() -> None:
    fd = os.open("/", os.O_PATH)
    try:
        with pytest.raises(OSError, match="Too many levels"):
            openat2(fd, "/proc/self/cwd", os.O_PATH)
    finally:
        os.close(fd)


def test_the_null_device_is_known_by_its_numbers(root: tuple[int, Path]) -> None:
    _fd, folder = root
    (folder / "null").touch()
    for path, expected in (("/dev/null", True), ("/dev/zero", False), (folder / "null", False)):
        fd = os.open(path, os.O_PATH)
        assert is_null_device(fd) is expected
        os.close(fd)
