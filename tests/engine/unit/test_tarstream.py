"""The tar reader against Python's own writer, our writer against Python's own reader, and both against damage."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshore.storage.tarstream import (
    CHARACTER,
    DIRECTORY,
    END,
    HARDLINK,
    MAX_EXTENSION,
    REGULAR,
    SYMLINK,
    Entry,
    TarError,
    TarReader,
    encode_header,
    padding,
)


def contents(data: bytes) -> list[tuple[Entry, bytes]]:
    """All entries with their files as they would be on disk."""
    reader = TarReader(io.BytesIO(data))
    found: list[tuple[Entry, bytes]] = []
    for entry in reader:
        file = bytearray(entry.size)
        for offset, piece in reader.data():
            file[offset : offset + len(piece)] = piece
        found.append((entry, bytes(file)))
    return found


def python_tar(members: list[tuple[tarfile.TarInfo, bytes]], format: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes_is_read(format: int) -> None:
    long = "d" * 60 + "/" + "f" * 90
    data = python_tar(
        [
            (member("dir", type=tarfile.DIRTYPE, mode=0o1777, uid=7, gid=8, mtime=1234), b""),
            (member("file", mode=0o4755), b"x" * 1000),
            (member(long), b"long name"),
            (member("link", type=tarfile.SYMTYPE, linkname="../target"), b""),
            (member("hard", type=tarfile.LNKTYPE, linkname="file"), b""),
            (member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
        ],
        format,
    )
    entries = {entry.name.decode(): (entry, file) for entry, file in contents(data)}
    directory, _ = entries["dir/" if "dir/" in entries else "dir"]
    assert (directory.kind, directory.mode, directory.uid, directory.gid) == (DIRECTORY, 0o1777, 7, 8)
    assert directory.mtime_ns == 1234 * 10**9
    assert entries["file"][0].mode == 0o4755
    assert entries["file"][1] == b"x" * 1000
    assert entries[long][1] == b"long name"
    assert (entries["link"][0].kind, entries["link"][0].linkname) == (SYMLINK, b"../target")
    assert (entries["hard"][0].kind, entries["hard"][0].linkname) == (HARDLINK, b"file")
    assert (entries["null"][0].kind, entries["null"][0].device) == (CHARACTER, (1, 3))


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_very_long_names_and_links(format: int) -> None:
    name, target = "/".join(["n" * 200] * 5), "t" * 300
    ((entry, _),) = contents(python_tar([(member(name, type=tarfile.SYMTYPE, linkname=target), b"")], format))
    assert (entry.name, entry.linkname) == (name.encode(), target.encode())


def test_pax_times_owners_and_attributes() -> None:
    info = member("f", uid=3_000_000, mtime=-1.5)
    info.pax_headers = {"SCHILY.xattr.user.a": "value"}
    ((entry, _),) = contents(python_tar([(info, b"")], tarfile.PAX_FORMAT))
    assert (entry.uid, entry.mtime_ns) == (3_000_000, -1_500_000_000)
    assert entry.xattrs == {b"user.a": b"value"}


@pytest.mark.parametrize("options", [("--format=gnu",), *(("--format=pax", f"--sparse-version={v}") for v in
                                     ("0.0", "0.1", "1.0"))])  # fmt: skip
def test_sparse_files_of_gnu_tar(tmp_path: Path, options: tuple[str, ...]) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        for offset in (0, 1 << 20, 3 << 20, 5 << 20, 7 << 20, 9 << 20):  # more than the header's four pieces
            file.seek(offset)
            file.write(b"data%d" % offset)
        file.truncate(10 << 20)
    command = ["tar", "-cS", *options, "-C", tmp_path, "sparse"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(data) < 1 << 20
    ((entry, file_bytes),) = contents(data)
    assert entry.name == b"sparse"
    assert file_bytes == (tmp_path / "sparse").read_bytes()


def write(entries: list[tuple[Entry, bytes]]) -> bytes:
    out = b""
    for entry, data in entries:
        entry.stored = len(data)
        out += encode_header(entry) + data + padding(len(data))
    return out + END


names = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and not name.endswith(b"/"))


@settings(max_examples=150, deadline=None)
@given(
    name=names,
    link=names,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 2),
    mtime=st.integers(-(2**32), 2**32),
    data=st.binary(max_size=1500),
    value=st.binary(max_size=200),
)
def test_what_we_write_we_read(
    name: bytes, link: bytes, mode: int, uid: int, mtime: int, data: bytes, value: bytes
) -> None:
    file = Entry(name, mode=mode, uid=uid, gid=uid, mtime_ns=mtime * 10**9)
    file.xattrs = {b"user.x": value}
    symlink = Entry(b"l", SYMLINK, linkname=link)
    (read, got), (read_link, _) = contents(write([(file, data), (symlink, b"")]))
    assert (read.name, read.kind, read.mode, read.uid, read.gid) == (name, REGULAR, mode, uid, uid)
    assert (read.mtime_ns, got, read.xattrs) == (mtime * 10**9, data, {b"user.x": value})
    assert (read_link.kind, read_link.linkname) == (SYMLINK, link)


def test_what_we_write_python_and_gnu_tar_read() -> None:
    long = "ü" * 100 + "/" + "x" * 200
    entry = Entry(long.encode(), uid=5_000_000)
    data = write(
        [(Entry(b"d/", DIRECTORY, mode=0o755), b""), (entry, b"hello"), (Entry(b"a" * 511), b"z" * 512)]
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = archive.getmember(long)
        assert found.uid == 5_000_000
        file = archive.extractfile(found)
        assert file is not None
        assert file.read() == b"hello"
    listed = subprocess.run(["tar", "-t"], input=data, capture_output=True, check=True)
    assert listed.stdout.count(b"\n") == 3


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1022, 1024])
def test_data_is_padded_to_blocks(size: int) -> None:
    archive = write([(Entry(b"a"), b"x" * size), (Entry(b"b"), b"y")])
    assert len(archive) % 512 == 0
    assert [file for _, file in contents(archive)] == [b"x" * size, b"y"]


def pax(records: bytes) -> bytes:
    header = Entry(b"p", b"x")
    header.stored = len(records)
    return encode_header(header) + records + padding(len(records)) + write([(Entry(b"f"), b"abc")])


GOOD = write([(Entry(b"f"), b"abc")])
DAMAGED = {
    "no tar": b"x" * 1024,
    "half a header": GOOD[:100],
    "half the data": GOOD[:514],
    "checksum": GOOD[:5] + b"X" + GOOD[6:],
    "endless pax": encode_header(Entry(b"p", b"x", stored=MAX_EXTENSION + 1)),
    "endless long name": encode_header(Entry(b"p", b"L", stored=1 << 30)),
    "missing pax": encode_header(Entry(b"p", b"x", stored=600)) + b"x" * 100,
    "pax length": pax(b"99 path=x\n"),
    "pax length zero": pax(b"0 path=x\n"),
    "pax no equals": pax(b"8 pathx\n"),
    "pax huge number": pax(b"40 size=" + b"9" * 31 + b"\n"),
    "pax negative size": pax(b"11 size=-5\n"),
    "pax null in path": pax(b"12 path=a\0b\n"),
    "pax owner": pax(b"18 uid=4294967296\n"),
    "sparse overlap": pax(b"19 GNU.sparse.map=\n" b"22 GNU.sparse.size=10\n"),
    "sparse outside": pax(b"23 GNU.sparse.map=8,3\n" b"22 GNU.sparse.size=10\n"),
    "sparse backwards": pax(b"29 GNU.sparse.map=5,2,0,1\n" b"22 GNU.sparse.size=10\n"),
    "unknown type": write([(Entry(b"f", b"Z"), b"")]),
    "multi-volume": write([(Entry(b"f", b"M"), b"")]),
    "only extensions": pax(b"10 path=a\n")[:1024] * 20,
    "empty name": write([(Entry(b""), b"")]),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_an_error(name: str) -> None:
    with pytest.raises(TarError):
        contents(DAMAGED[name])


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255), data=st.binary(max_size=2000))
def test_any_damage_is_an_error_or_harmless(position: int, value: int, data: bytes) -> None:
    for archive in (GOOD[:position] + bytes([value]) + GOOD[position + 1 :], data, GOOD[:position] + data):
        try:
            contents(archive)
        except TarError:
            pass  # nothing else may come out


def test_an_archive_without_end_marker_is_fine() -> None:
    assert len(contents(GOOD[: -len(END)])) == 1
