"""Layers of any tree: what is packed, unpacked and packed again is the same, and a diff applied gives what was changed.

In this process, without the workers, so that many trees fit into a few seconds.
"""

import contextlib
import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from layer_lab import picture

from longshore.kernel import mounts
from longshore.storage.apply import Applier
from longshore.storage.pack import Packer
from longshore.storage.tarstream import TarReader

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and mounts need root")
quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    phases=(Phase.generate,),  # making an example small would take minutes, and the entries tell enough
)
NAMES = st.sampled_from(["a", "b", "ü" * 50, "with space", "x" * 140, "-", "dot.d"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OWNERS = st.sampled_from([0, 1000, 2**21, 2**31 + 5, 2**32 - 2])
TIMES = st.integers(-(2**32), 2**32).map(lambda seconds: seconds * 1_000_000_000)  # tar reads up to 2116
KINDS = ("file", "sparse", "directory", "link", "hardlink", "fifo", "device", "whiteout", "opaque")
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), PATHS, OWNERS, st.integers(0, 0o7777), TIMES, st.binary(max_size=700)),
    max_size=12,
)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="layers", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def pack(root: Path) -> bytes:
    out = io.BytesIO()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        Packer(out).pack(fd)
    finally:
        os.close(fd)
    return out.getvalue()


def unpack(data: bytes, root: Path) -> Path:
    root.mkdir()
    root.chmod(0o755)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        Applier(fd, max_entries=10_000, max_size=1 << 30).apply(TarReader(io.BytesIO(data)))
    finally:
        os.close(fd)
    return root


Step = tuple[str, str, int, int, int, bytes]


def grow(root: Path, steps: list[Step]) -> Path:
    """An overlay's upper directory as some steps make it; one that cannot be made is left out."""
    root.mkdir()
    made: list[Path] = []
    for kind, name, owner, mode, when, data in steps:
        path = root / name
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            path.parent.mkdir(parents=True, exist_ok=True)
            make(kind, path, data, made)
            if kind in ("whiteout", "opaque"):
                continue
            os.chown(path, owner, owner, follow_symlinks=False)
            if kind != "link":
                path.chmod(mode)
            os.utime(path, ns=(when, when), follow_symlinks=False)
            made.append(path)
    for folder in sorted(
        (path for path in root.rglob("*") if path.is_dir() and not path.is_symlink()), reverse=True
    ):
        os.utime(folder, (1, 1))  # its entries have changed it; tar keeps whole seconds
    return root


def make(kind: str, path: Path, data: bytes, made: list[Path]) -> None:
    match kind:
        case "file":
            with path.open("xb") as file:
                file.write(data)
            os.setxattr(path, "user.test", data[:50])
        case "sparse":
            with path.open("xb") as file:
                file.truncate(1 << 20)
                os.pwrite(file.fileno(), data, 5 << 16)
        case "directory":
            path.mkdir()
        case "opaque":
            path.mkdir(exist_ok=True)
            if not path.is_symlink():
                os.setxattr(path, "trusted.overlay.opaque", b"y")
        case "link":
            path.symlink_to(data.hex() or "../nowhere")
        case "hardlink":
            files = [one for one in made if one.is_file() and not one.is_symlink()]
            if files:
                os.link(files[-1], path)
            else:
                path.touch(exist_ok=False)
        case "fifo":
            os.mkfifo(path)
        case "device":
            os.mknod(path, stat.S_IFCHR, os.makedev(1, 3))
        case _:
            os.mknod(path, stat.S_IFCHR, 0)


def seen(root: Path) -> dict[str, tuple[object, ...]]:
    """A tree without its root; of a whiteout counts that it is one."""
    facts = {name: fact for name, fact in picture(root).items() if name != "."}
    return {name: () if str(fact[0])[0] == "c" and fact[4] == 0 else fact for name, fact in facts.items()}


@quick
@given(STEPS)
def test_a_layer_that_is_unpacked_and_packed_again_has_the_same_digest(steps: list[Step]) -> None:
    with scratch() as folder:
        upper = grow(folder / "upper", steps)
        data = pack(upper)
        again = unpack(data, folder / "again")
        assert pack(again) == data
        assert seen(again) == seen(upper)
        for path in upper.rglob("*"):
            if not path.is_symlink():
                there = again / path.relative_to(upper)
                for name in os.listxattr(path):
                    assert os.getxattr(there, name) == os.getxattr(path, name)


@quick
@given(STEPS)
def test_others_read_the_same_tree(steps: list[Step]) -> None:
    """Python's own reader sees each entry, and reads each file as it is."""
    with scratch() as folder:
        upper = grow(folder / "upper", [step for step in steps if step[0] not in ("whiteout", "opaque")])
        with tarfile.open(fileobj=io.BytesIO(pack(upper))) as archive:
            members = {member.name: member for member in archive}
            assert set(members) == {str(path.relative_to(upper)) for path in upper.rglob("*")}
            for name, member in members.items():
                status = (upper / name).lstat()
                assert (member.mode, member.uid, member.mtime) == (
                    stat.S_IMODE(status.st_mode),
                    status.st_uid,
                    status.st_mtime_ns // 1_000_000_000,
                )
                if member.isreg():
                    file = archive.extractfile(member)
                    assert file
                    assert file.read() == (upper / name).read_bytes()


CHANGES = st.lists(
    st.tuples(st.sampled_from(["write", "remove", "directory", "link", "rename"]), PATHS, PATHS), max_size=10
)


@contextlib.contextmanager
def overlay(lowers: list[Path], folder: Path) -> Iterator[Path]:
    for name in ("upper", "work", "merged"):
        (folder / name).mkdir(parents=True)
    lower = ":".join(map(str, lowers))
    data = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    mounts.mount("overlay", str(folder / "merged"), "overlay", 0, data)
    try:
        yield folder / "merged"
    finally:
        mounts.umount(str(folder / "merged"))


def change(root: Path, kind: str, path: Path, other: Path) -> None:
    if kind == "remove":
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "write":
        path.write_text(f"changed {path.relative_to(root)}")
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("elsewhere")
    else:
        shutil.move(other, path)


@quick
@given(STEPS, CHANGES)
def test_a_diff_applied_to_its_base_is_what_was_changed(
    steps: list[Step], changes: list[tuple[str, str, str]]
) -> None:
    """Whiteouts and opaque directories both ways, with overlayfs as the judge."""
    with scratch() as folder:
        plain = [step for step in steps if step[0] not in ("whiteout", "opaque")]
        base = unpack(pack(grow(folder / "grown", plain)), folder / "base")
        with overlay([base], folder / "first") as merged:
            for kind, name, other in changes:
                with contextlib.suppress(OSError, shutil.Error):
                    change(merged, kind, merged / name, merged / other)
            for path in sorted((folder / "first/upper").rglob("*"), reverse=True):
                inside = merged / path.relative_to(folder / "first/upper")
                if os.path.lexists(inside):
                    os.utime(inside, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
            wanted = picture(merged)
        layer = unpack(pack(folder / "first/upper"), folder / "layer")
        with overlay([layer, base], folder / "second") as merged:
            got = picture(merged)
        # a hard link to a file of the base is a file of its own in the layer above, in Docker too
        assert {name: facts[:3] + facts[4:] for name, facts in got.items() if name != "." and facts} == {
            name: facts[:3] + facts[4:] for name, facts in wanted.items() if name != "." and facts
        }
