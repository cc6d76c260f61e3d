"""Unpacking and packing layers with the real kernel."""

import contextlib
import gzip
import os
import shutil
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from layer_lab import Lab, device, directory, entry, hardlink, picture, symlink, tar

from longshore.errors import InvalidArgument, NotFound, OutOfSpace
from longshore.kernel import mounts
from longshore.oci.digest import Digest, sha256_of
from longshore.storage.layers import EMPTY_LAYER, LayerStore, Limits


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@contextlib.contextmanager
def overlay(lowers: list[Path], upper: Path, work: Path, target: Path) -> Iterator[Path]:
    for path in (upper, work, target):
        path.mkdir(parents=True, exist_ok=True)
    lower = ":".join(map(str, lowers))
    mounts.mount("overlay", str(target), "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={work}")
    try:
        yield target
    finally:
        mounts.umount(str(target))


def test_all_kinds_of_entries(lab: Lab) -> None:
    # struct vfs_ns_cap_data, revision 2: cap_net_raw permitted and effective (linux/capability.h)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    root = lab.unpack(
        tar(
            directory("./", 0o711),
            directory("d", 0o1777, uid=5, gid=6, mtime=1_500_000_000),
            entry("d/f", b"hello", mode=0o4755, uid=1000, gid=1001),
            symlink("d/l", "/nowhere/../else"),
            hardlink("h", "d/f"),
            hardlink("hl", "d/l"),
            device("null", 1, 3),
            device("loop", 7, 0, tarfile.BLKTYPE),
            entry("fifo", type=tarfile.FIFOTYPE, mode=0o620),
            entry("deep/down/here", b"x"),
            entry(
                "caps",
                pax={
                    "SCHILY.xattr.security.capability": capability.decode("latin-1"),
                    "SCHILY.xattr.user.note": "text",
                    "SCHILY.xattr.trusted.overlay.redirect": "/other",
                },
            ),
        )
    )
    assert stat.S_IMODE(root.stat().st_mode) == 0o711
    seen = picture(root)
    assert seen["d"][:3] == ("drwxrwxrwt", 5, 6)
    assert seen["d"][5] == 1_500_000_000 * 10**9
    assert seen["d/f"][:4] == ("-rwsr-xr-x", 1000, 1001, 2)
    assert (root / "d/f").read_bytes() == b"hello"
    assert (root / "h").stat().st_ino == (root / "d/f").stat().st_ino
    assert (root / "hl").lstat().st_ino == (root / "d/l").lstat().st_ino
    assert seen["d/l"][6] == "/nowhere/../else"
    assert (seen["null"][0][0], seen["null"][4]) == ("c", os.makedev(1, 3))  # type: ignore[index]
    assert (seen["loop"][0][0], seen["loop"][4]) == ("b", os.makedev(7, 0))  # type: ignore[index]
    assert seen["fifo"][0] == "prw--w----"
    assert seen["deep/down"][0] == "drwxr-xr-x"
    assert os.getxattr(root / "caps", "security.capability") == capability
    assert os.getxattr(root / "caps", "user.note") == b"text"
    assert "trusted.overlay.redirect" not in os.listxattr(root / "caps")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_compression_is_found_by_itself(lab: Lab, pack) -> None:  # type: ignore[no-untyped-def]
    data = tar(entry("f", b"x" * 100_000))
    lab.layers.unpack(lab.content.put(pack(data)), sha256_of(data))
    assert lab.layers.has(sha256_of(data))
    assert lab.layers.size(sha256_of(data)) == 100_000


def test_entries_replace_earlier_ones(lab: Lab) -> None:
    root = lab.unpack(
        tar(
            entry("a", b"first"),
            entry("a", b"second"),
            directory("b"),
            entry("b/inside", b""),
            entry("b", b"now a file"),
            symlink("c", "elsewhere"),
            directory("c"),
            entry("c/new", b""),
            directory("d", 0o700),
            entry("d/kept", b""),
            directory("d", 0o755),
        )
    )
    assert (root / "a").read_bytes() == b"second"
    assert (root / "b").read_bytes() == b"now a file"
    assert (root / "c/new").exists()
    assert not (root / "c").is_symlink()
    assert (root / "d/kept").exists()
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o755


def test_whiteouts_hide_what_is_below(lab: Lab, tmp_path: Path) -> None:
    base = lab.unpack(
        tar(
            *(entry(f"{folder}/{name}", b"old") for folder in "abcde" for name in ("x", "y")),
            entry("keep", b""),
        )
    )
    top = lab.unpack(
        tar(
            entry("a/.wh.x"),
            entry("b/.wh..wh..opq"),
            entry("b/new", b"new"),
            entry(".wh.c"),
            entry("c/back", b"new"),  # deleted and made again: nothing of the old one shows
            directory("d"),
            entry("d/mine", b"new"),
            entry(".wh.d"),  # the same in the other order
            entry(".wh..wh.plnk"),
            entry(".wh.keep"),
        )
    )
    with overlay([top, base], tmp_path / "u", tmp_path / "w", tmp_path / "m") as merged:
        names = {str(p.relative_to(merged)) for p in merged.rglob("*") if not p.is_dir()}
    assert names == {"a/y", "b/new", "c/back", "d/mine", "e/x", "e/y"}


def test_a_root_that_hides_everything_is_told(lab: Lab) -> None:
    data = tar(entry(".wh..wh..opq"), entry("only", b""))
    lab.unpack(data)
    assert lab.layers.hides_below(sha256_of(data))
    assert not lab.layers.hides_below(EMPTY_LAYER)


def test_a_wrong_diff_id_leaves_nothing(lab: Lab) -> None:
    wrong = sha256_of(b"else")
    with pytest.raises(InvalidArgument, match="does not match its diff id"):
        lab.unpack(tar(entry("f", b"x")), wrong)
    assert not lab.layers.has(wrong)
    assert lab.leftovers() == []


def test_bytes_after_the_end_marker_count(lab: Lab) -> None:
    data = tar(entry("f", b"x")) + b"hidden tail" * 100_000
    with pytest.raises(InvalidArgument, match="does not match"):
        lab.unpack(data, sha256_of(tar(entry("f", b"x"))))
    lab.unpack(data)


@pytest.mark.parametrize("data", [b"no tar at all" * 100, tar(entry("f", b"x" * 9000))[:3000], b"BZh9"])
def test_damaged_layers_leave_nothing(lab: Lab, data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="invalid layer"):
        lab.unpack(data)
    assert lab.layers.list() == [EMPTY_LAYER]
    assert lab.leftovers() == []


def test_a_missing_blob(lab: Lab) -> None:
    with pytest.raises(NotFound):
        lab.layers.unpack(sha256_of(b"?"), sha256_of(b"?"))


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounts.mount("tmpfs", str(small), "tmpfs", 0, "size=4m")
    try:
        lab = Lab(tmp_path / "lab")
        layers = LayerStore(small, lab.content)
        data = tar(entry("big", b"x" * (8 << 20)))
        with pytest.raises(OutOfSpace, match="no space left on device"):
            layers.unpack(lab.content.put(data), sha256_of(data))
        assert [path.name for path in layers.directory.iterdir()] == [layers.name(EMPTY_LAYER)]
        free = shutil.disk_usage(small).free
        assert free > 3 << 20
    finally:
        mounts.umount(str(small))


def test_what_is_deleted_is_gone(lab: Lab) -> None:
    data = tar(entry("a/b/c", b"x"))
    root = lab.unpack(data)
    lab.layers.delete(sha256_of(data))
    lab.layers.delete(sha256_of(data))
    assert not root.exists()
    assert not lab.layers.has(sha256_of(data))
    assert lab.leftovers() == []


def test_the_sweep_keeps_leased_and_used_layers(lab: Lab) -> None:
    used, leased, free = (tar(entry(name, b"x")) for name in ("used", "leased", "free"))
    for data in (used, leased, free):
        lab.unpack(data)
    with lab.layers.lease():
        lab.unpack(leased)
        assert set(lab.layers.sweep(lambda id: id == sha256_of(used))) == {sha256_of(free)}
    assert set(lab.layers.list()) == {EMPTY_LAYER, sha256_of(used), sha256_of(leased)}


def test_a_restart_removes_rubble_and_a_power_cut_removes_what_was_not_flushed(
    lab: Lab, tmp_path: Path
) -> None:
    flushed, fresh = tar(entry("flushed", b"")), tar(entry("fresh", b""))
    lab.unpack(flushed)
    lab.layers.settle()
    lab.unpack(fresh)
    (lab.layers.directory / ".new-123" / "x").mkdir(parents=True)
    again = LayerStore(tmp_path / "layers", lab.content)
    assert {sha256_of(flushed), sha256_of(fresh)} <= set(again.list())
    assert lab.leftovers() == []
    for meta in (tmp_path / "layers/meta").iterdir():
        meta.write_text(meta.read_text().replace('"boot":"', '"boot":"another-'))
    rebooted = LayerStore(tmp_path / "layers", lab.content)
    assert set(rebooted.list()) == {EMPTY_LAYER, sha256_of(flushed)}
    rebooted.unpack(sha256_of(fresh), sha256_of(fresh))


def make_changes(root: Path) -> None:
    (root / "usr/new").mkdir()
    (root / "usr/new/file").write_bytes(b"data" * 1000)
    os.link(root / "usr/new/file", root / "usr/new/again")
    (root / "usr/new/file").chmod(0o4711)
    os.chown(root / "usr/new/file", 12, 34)
    (root / "usr/new/link").symlink_to("/usr/old")
    os.mkfifo(root / "usr/new/fifo", 0o600)
    os.mknod(root / "usr/new/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.setxattr(root / "usr/new/again", "user.a", b"b")
    (root / ("usr/new/" + "ü" * 60)).write_text("name beyond ascii")
    (root / "usr/gone").unlink()
    shutil.rmtree(root / "usr/replaced")
    (root / "usr/replaced").mkdir()
    (root / "usr/replaced/new").touch()
    (root / "usr/kept").write_text("changed")


def test_a_committed_upper_says_the_same_as_the_overlay(lab: Lab, tmp_path: Path) -> None:
    base = lab.unpack(
        tar(
            entry("usr/gone", b"x"),
            entry("usr/kept", b"x"),
            entry("usr/replaced/old", b"x"),
            entry("usr/old", b"x"),
        )
    )
    upper = tmp_path / "u"
    with overlay([base], upper, tmp_path / "w", tmp_path / "m") as merged:
        make_changes(merged)
        for path in sorted(merged.rglob("*"), reverse=True):  # tar keeps whole seconds
            if path.name != "old":  # touching copies it up
                os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
        wanted = picture(merged)
    descriptor, diff_id = lab.layers.commit_upper(upper)
    with lab.content.open(descriptor.blob) as file:
        plain = gzip.decompress(file.read())
    assert sha256_of(plain) == diff_id
    layer = lab.layers.directory / lab.layers.name(diff_id)
    with overlay([layer, base], tmp_path / "u2", tmp_path / "w2", tmp_path / "m2") as merged:
        assert picture(merged) | {".": None} == wanted | {".": None}
        assert os.getxattr(merged / "usr/new/file", "user.a") == b"b"
    names = subprocess.run(["tar", "-t"], input=plain, capture_output=True, check=True).stdout.decode()
    assert "usr/.wh.gone\n" in names
    assert "usr/replaced/.wh..wh..opq\n" in names
    assert "usr/old" not in names


def test_the_same_upper_gives_the_same_blob(lab: Lab, tmp_path: Path) -> None:
    def build(root: Path, names: list[str]) -> Path:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(name)
        for path in sorted(root.rglob("*"), reverse=True):
            os.utime(path, (1, 1))
        return root

    names = ["b/2", "a", "b/1", "c/d/e"]
    first = lab.layers.commit_upper(build(tmp_path / "1", names))
    assert lab.layers.commit_upper(build(tmp_path / "2", names[::-1])) == first


def test_an_empty_upper_is_the_empty_layer(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "u").mkdir()
    assert lab.layers.commit_upper(tmp_path / "u")[1] == EMPTY_LAYER


def test_a_reserved_name_cannot_be_committed(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "u").mkdir()
    (tmp_path / "u/.wh.trick").touch()
    with pytest.raises(InvalidArgument, match="reserved"):
        lab.layers.commit_upper(tmp_path / "u")
    assert lab.leftovers() == []


def test_a_large_layer_takes_seconds(lab: Lab, tmp_path: Path) -> None:
    """200 MB in 8000 files, the size of an apt-get install."""
    upper, block = tmp_path / "u", os.urandom(12_000) + b"text " * 2_600
    for number in range(8000):
        if number % 100 == 0:
            (upper / str(number // 100)).mkdir(parents=True)
        (upper / str(number // 100) / str(number)).write_bytes(block)
    begin = time.monotonic()
    _, diff_id = lab.layers.commit_upper(upper)
    assert time.monotonic() - begin < 40  # GNU tar needs 6 s to unpack it while others use this machine too
    assert lab.layers.size(diff_id) == 8000 * len(block)


def test_two_threads_unpack_a_layer_once(lab: Lab) -> None:
    import concurrent.futures

    data = tar(*(entry(str(n), b"x") for n in range(100)))
    blob = lab.content.put(data)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _n: lab.layers.unpack(blob, sha256_of(data)), range(4)))
    assert lab.layers.has(sha256_of(data))
    assert lab.leftovers() == []


def test_names_are_short_and_harmless_in_mount_options(lab: Lab) -> None:
    names = [lab.layers.name(Digest("sha256", f"{n:064x}"[::-1])) for n in range(1000)]
    assert len(set(names)) == 1000
    assert all(len(name) == 24 and not set(name) & set(":,\\= ./") for name in names)
    assert Limits().max_size(1) == 1 << 30
