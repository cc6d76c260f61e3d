import errno
import os
import time
from pathlib import Path

import pytest

from longshore.errors import Conflict, InvalidArgument, NotFound, OutOfSpace
from longshore.oci.digest import Digest, digest_like, sha256_of
from longshore.storage.content import ContentStore
from longshore.storage.leases import RESUME_SECONDS
from longshore.storage.snapshots import Snapshots
from longshore.storage.trees import remove_tree, tree_size
from longshore.storage.volumes import VolumeStore

DATA = b"some bytes"
DIGEST = sha256_of(DATA)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> ContentStore:
    return ContentStore(tmp_path / "content", clock)


def files(store: ContentStore) -> list[str]:
    return sorted(path.name for path in store.root.rglob("*") if path.is_file())


def test_a_blob_comes_back(store: ContentStore) -> None:
    with store.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA[:4])
        assert not store.has(DIGEST)
        writer.write(DATA[4:])
        assert writer.commit() == DIGEST
    with store.open(DIGEST) as file:
        assert file.read() == DATA
    assert store.path(DIGEST) == store.root / "blobs/sha256" / DIGEST.hex
    assert (store.size(DIGEST), store.list()) == (len(DATA), [DIGEST])
    assert files(store) == [DIGEST.hex, f"sha256-{DIGEST.hex}"]  # the second: held, for its image may follow
    store.release([DIGEST])
    assert files(store) == [DIGEST.hex]


def test_put_twice_writes_once(store: ContentStore) -> None:
    store.put(DATA)
    before = store.path(DIGEST).stat().st_ino
    assert store.put(DATA) == DIGEST
    assert store.path(DIGEST).stat().st_ino == before


@pytest.mark.parametrize(
    ("expected", "size", "words"),
    [
        (sha256_of(b"else"), None, "does not match its digest"),
        (DIGEST, len(DATA) + 1, "incomplete"),
        (DIGEST, len(DATA) - 1, "larger than announced"),
    ],
)
def test_wrong_content_leaves_nothing(
    store: ContentStore, expected: Digest, size: int | None, words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words), store.writer(expected, size) as writer:
        writer.write(DATA)
        writer.commit()
    assert files(store) == []


def test_giving_up_leaves_nothing(store: ContentStore) -> None:
    with store.writer() as writer:
        writer.write(DATA)
    assert files(store) == []


def test_a_full_disk_is_told_and_leaves_nothing(store: ContentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutOfSpace, match="no space left on device"), store.writer() as writer:
        monkeypatch.setattr(os, "write", full)
        writer.write(DATA)
    assert files(store) == []


def test_what_a_foreign_process_wrote_is_verified(store: ContentStore) -> None:
    with store.writer(DIGEST) as writer:
        os.write(writer.fileno(), DATA)
        assert writer.commit_foreign() == DIGEST
    with pytest.raises(InvalidArgument), store.writer(sha256_of(b"")) as writer:
        os.write(writer.fileno(), DATA)
        writer.commit_foreign()


def test_leftovers_of_a_crash_go_when_the_store_opens(store: ContentStore) -> None:
    (store.ingest / "half").write_bytes(b"x")
    ContentStore(store.root)
    assert files(store) == []


def test_missing_blobs(store: ContentStore) -> None:
    assert not store.has(DIGEST)
    for call in (store.open, store.size):
        with pytest.raises(NotFound):
            call(DIGEST)
    store.delete(DIGEST)


def test_sha512(store: ContentStore) -> None:
    long = digest_like(Digest("sha512", ""), DATA)
    assert store.put(DATA, long) == long
    assert store.path(long) == store.root / "blobs/sha512" / long.hex
    assert store.list() == [long]
    assert store.is_true(long)
    store.path(long).write_bytes(b"else")
    assert not store.is_true(long)


def test_a_half_stays_for_the_next_try_and_is_hashed_again(store: ContentStore) -> None:
    with pytest.raises(RuntimeError), store.resume(DIGEST, len(DATA)) as writer:
        writer.write(DATA[:4])
        raise RuntimeError
    assert store.partials() == {DIGEST: 4}
    again = ContentStore(store.root)
    with again.resume(DIGEST, len(DATA), "pull of x") as writer:
        assert writer.written == 4
        with pytest.raises(Conflict):
            again.resume(DIGEST, len(DATA))
        writer.write(DATA[4:])
        writer.commit()
    assert again.partials() == {}
    assert again.reasons(DIGEST) == ["pull of x"]  # its image may still come


def test_what_is_wrong_or_too_much_is_no_half(store: ContentStore) -> None:
    for written in (b"wrong bytes", b"wrong byte"):
        with pytest.raises(InvalidArgument), store.resume(DIGEST, len(DATA)) as writer:
            writer.write(written)
            writer.commit()
        assert store.partials() == {}
    (store.partial / f"sha256-{DIGEST.hex}").write_bytes(b"more than there can be")
    with store.resume(DIGEST, len(DATA)) as writer:
        assert writer.written == 0


def test_halves_grow_old(tmp_path: Path, clock: Clock) -> None:
    store = ContentStore(tmp_path, clock)
    with pytest.raises(RuntimeError), store.resume(DIGEST, len(DATA)) as writer:
        writer.write(DATA[:4])
        raise RuntimeError
    (store.partial / "junk").touch()
    clock.now = time.time() + RESUME_SECONDS - 60
    assert store.sweep_partials() == 0
    clock.now += 120
    with pytest.raises(RuntimeError), store.resume(DIGEST, len(DATA)):
        assert store.sweep_partials(all=True) == 0  # it grows now
        raise RuntimeError
    assert store.sweep_partials() == 4
    assert files(store) == []


def test_holds_outlive_the_process(store: ContentStore, clock: Clock) -> None:
    held, other = store.put(b"1"), store.put(b"2")
    store.hold(held, 7200, "for a reason")
    (store.root / "holds" / "junk").touch()
    again = ContentStore(store.root, clock)
    clock.now = 3601
    assert again.sweep(lambda _digest: False) == {other: 1}
    assert again.reasons(held) == ["for a reason"]
    clock.now = 7201
    assert again.sweep(lambda _digest: False) == {held: 1}
    assert files(again) == []


def test_a_follower_reads_along(store: ContentStore) -> None:
    with store.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA[:4])
        follower = writer.follow()
        assert os.read(follower.blob, 100) == DATA[:4]
        writer.write(DATA[4:])
        assert os.read(follower.blob, 100) == DATA[4:]
        writer.commit()
        assert os.read(follower.pulse, 100) == b"..$"
        with pytest.raises(Conflict):
            writer.follow()
    follower.close()
    follower.close()
    with store.writer() as writer:
        follower = writer.follow()
    assert os.read(follower.pulse, 100) == b"."  # and no more: given up
    assert os.read(follower.pulse, 100) == b""
    follower.close()


def test_documents_have_a_limit(store: ContentStore) -> None:
    store.put(DATA)
    assert store.read(DIGEST, len(DATA)) == DATA
    with pytest.raises(InvalidArgument, match="too large"):
        store.read(DIGEST, len(DATA) - 1)


def test_the_sweep_keeps_what_is_used_leased_or_held(store: ContentStore, clock: Clock) -> None:
    used, leased, found, held, free = (store.put(bytes([n])) for n in range(5))
    store.release([used, leased, found, free])
    with store.lease():
        store.put(bytes([1]))
        assert store.has(found)
        assert store.sweep(lambda digest: digest == used) == {free: 1}
    assert set(store.list()) == {used, leased, found, held}
    assert set(store.sweep(lambda digest: digest == used)) == {leased, found}
    clock.now = 3601
    assert set(store.sweep(lambda digest: digest == used)) == {held}


def test_what_is_written_under_a_lease_is_free_afterwards(store: ContentStore) -> None:
    with store.lease() as kept:
        store.put(DATA)
        assert kept == {DIGEST}
    assert store.sweep(lambda _digest: False) == {DIGEST: len(DATA)}


def test_snapshots(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "snapshots")
    before = os.umask(0o077)
    try:
        writable = snapshots.create("abc")
    finally:
        os.umask(before)
    assert writable.upper.stat().st_mode & 0o777 == 0o755
    assert snapshots.get("abc") == writable
    with pytest.raises(Conflict):
        snapshots.create("abc")
    (writable.upper / "f").write_bytes(b"12345")
    assert (snapshots.size("abc"), snapshots.list()) == (5, ["abc"])
    snapshots.remove("abc")
    snapshots.remove("abc")
    assert snapshots.list() == []
    assert list(snapshots.root.iterdir()) == []
    with pytest.raises(NotFound):
        snapshots.get("abc")
    for bad in ("", "..", "a/b", ".x"):
        with pytest.raises(InvalidArgument):
            snapshots.create(bad)


def test_a_half_removed_snapshot_goes_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / ".removing-x" / "upper").mkdir(parents=True)
    assert Snapshots(tmp_path).list() == []
    assert list(tmp_path.iterdir()) == []


def test_volumes(tmp_path: Path) -> None:
    volumes = VolumeStore(tmp_path / "volumes")
    path = volumes.create("data")
    assert path == tmp_path / "volumes/data/_data"
    (path / "f").write_bytes(b"123")
    assert volumes.create("data") == path
    assert (volumes.path("data"), volumes.size("data"), volumes.list()) == (path, 3, ["data"])
    volumes.remove("data")
    volumes.remove("data")
    assert volumes.list() == []
    with pytest.raises(NotFound, match="get data: no such volume"):
        volumes.path("data")
    for bad in ("", "a", ".x", "../x", "a/b", "x" * 256):
        with pytest.raises(InvalidArgument):
            volumes.create(bad)


def test_the_files_of_removed_volumes_go_in_the_background(tmp_path: Path) -> None:
    def wait_for_nothing() -> None:
        deadline = time.monotonic() + 10
        while list(tmp_path.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    volumes = VolumeStore(tmp_path)
    for _ in range(3):  # the same name again, while the one before may still be going
        (volumes.create("data") / "f").write_bytes(b"123")
        volumes.remove("data")
    wait_for_nothing()
    (tmp_path / ".removing-x" / "_data").mkdir(parents=True)  # left by a process that ended
    assert VolumeStore(tmp_path).list() == []
    wait_for_nothing()


def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "deep"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(3000):  # a path name has at most 4096 bytes, Python's stack about 1000 frames
        os.mkdir("d", dir_fd=fd)
        child = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    tree_size(root)
    remove_tree(root)
    assert not root.exists()
    remove_tree(root)


def test_removing_a_tree_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    remove_tree(root)
    link = tmp_path / "link"
    link.symlink_to(outside)
    remove_tree(link)
    assert not link.is_symlink()
    assert (outside / "f").exists()


def test_hard_links_count_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    os.link(tmp_path / "a", tmp_path / "b")
    assert tree_size(tmp_path) == 5
    assert tree_size(tmp_path / "nothing") == 0
