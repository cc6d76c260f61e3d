"""`cp`: where things go, and archives that want to leave their folder. ssh:// hosts."""

import io
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from longshore.cli.copy import split_argument, target_name
from longshore.cli.ssh import ssh_command
from longshore.cli.unpack import unpack
from longshore.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("web:/a", ("web", "/a")),
        ("web:a:b", ("web", "a:b")),
        ("/a:b", ("", "/a:b")),
        ("./a:b", ("", "./a:b")),
        ("a", ("", "a")),
        ("-", ("", "-")),
        (":a", ("", ":a")),
    ],
)
def test_which_side_is_the_container(text: str, parts: tuple[str, str]) -> None:
    assert split_argument(text) == parts


@pytest.mark.parametrize(
    ("source", "is_folder", "target", "found", "wanted"),
    [
        ("/a/file", False, "/t", "folder", ("/t", "file")),
        ("/a/file", False, "/t/new", "", ("/t", "new")),
        ("/a/file", False, "/t/old", "file", ("/t", "old")),
        ("/a/dir", True, "/t", "folder", ("/t", "dir")),
        ("/a/dir/", True, "/t", "folder", ("/t", "dir")),
        ("/a/dir/.", True, "/t", "folder", ("/t", "")),
        ("/a/dir", True, "/t/new", "", ("/t", "new")),
        ("/a/dir/.", True, "/t/new", "", ("/t", "new")),
        ("/a/dir", True, "/t/new/", "", ("/t", "new")),
        ("f", False, "new", "", (".", "new")),
        ("/", True, "/t", "folder", ("/t", "")),
    ],
)
def test_what_a_copy_is_called(
    source: str, is_folder: bool, target: str, found: str, wanted: tuple[str, str]
) -> None:
    assert target_name(source, is_folder=is_folder, target=target, found=found) == wanted


@pytest.mark.parametrize(
    ("is_folder", "target", "found"),
    [(True, "/t/old", "file"), (False, "/t/new/", ""), (False, "/t/old/", "file")],
)
def test_what_cannot_be_copied(is_folder: bool, target: str, found: str) -> None:
    with pytest.raises(InvalidArgument):
        target_name("/a/x", is_folder=is_folder, target=target, found=found)


def archive(*members: tuple[str, Any]) -> list[bytes]:
    """(name, bytes of a file, None for a folder, or (type, link target))."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = 0o4755, 1_000_000_000
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    raw = data.getvalue()
    return [raw[at : at + 700] for at in range(0, len(raw), 700)]


def test_a_tree_is_unpacked_under_its_new_name(tmp_path: Path) -> None:
    tree = archive(
        ("top/", None), ("top/a", b"x" * 2000), ("top/sub", None), ("top/sub/b", b"y"),
        ("top/link", (tarfile.SYMTYPE, "/etc/passwd")), ("top/hard", (tarfile.LNKTYPE, "top/a")),
        ("top/pipe", (tarfile.FIFOTYPE, "")),
    )  # fmt: skip
    unpack(tree, tmp_path, "new", keep_owner=False)
    assert (tmp_path / "new/a").read_bytes() == b"x" * 2000
    assert (tmp_path / "new/sub/b").read_bytes() == b"y"
    assert (tmp_path / "new/link").readlink() == Path("/etc/passwd")
    assert (tmp_path / "new/hard").stat().st_ino == (tmp_path / "new/a").stat().st_ino
    assert (tmp_path / "new/pipe").is_fifo()
    assert stat.S_IMODE((tmp_path / "new/a").stat().st_mode) == 0o755  # no set-id bit of a container's user
    assert (tmp_path / "new/sub").stat().st_mtime == 1_000_000_000
    unpack(tree, tmp_path, "new", keep_owner=False)  # again over what is there
    unpack(tree, tmp_path / "new/sub", "", keep_owner=False)  # only what is in it
    assert (tmp_path / "new/sub/a").exists()


@pytest.mark.parametrize(
    "members",
    [
        [("top", None), ("top/../../evil", b"x")],
        [("top", None), ("../evil", b"x")],
        [("top", None), ("other/evil", b"x")],
        [("top", None), ("top/l", (tarfile.SYMTYPE, "..")), ("top/l/evil", b"x")],
        [("top", None), ("top/l", (tarfile.LNKTYPE, "../secret"))],
        [("top", None), ("top/d", (tarfile.SYMTYPE, "..")), ("top/d", None), ("top/d/evil", b"x")],
    ],
)
def test_an_archive_cannot_leave_its_folder(tmp_path: Path, members: list[tuple[str, Any]]) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "inside").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(InvalidArgument):
        unpack(archive(*members), tmp_path / "inside", "new", keep_owner=False)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_a_link_of_ours_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/file").symlink_to(tmp_path / "secret")
    unpack(archive(("file", b"new")), tmp_path / "inside", "file", keep_owner=False)
    assert (tmp_path / "secret").read_text() == "secret"
    assert not (tmp_path / "inside/file").is_symlink()


@pytest.mark.parametrize(
    ("host", "tail"),
    [
        ("ssh://h", ["--", "h", "longshore", "system", "dial-stdio"]),
        ("ssh://me@h:2222", ["-l", "me", "-p", "2222", "--", "h", "longshore", "system", "dial-stdio"]),
        ("ssh://h/run/x.sock", ["--", "h", "longshore", "-H", "unix:///run/x.sock", "system", "dial-stdio"]),
    ],
)
def test_ssh_hosts(host: str, tail: list[str]) -> None:
    assert ssh_command(host)[-len(tail) :] == tail


@pytest.mark.parametrize(
    "host", ["ssh://", "ssh://-oProxyCommand=x", "ssh://me:pw@h", "ssh://h:port", "ssh://h?x"]
)
def test_ssh_hosts_that_are_none(host: str) -> None:
    with pytest.raises(InvalidArgument):
        ssh_command(host)
