"""Contexts from a client: what is sent once is not sent again, and a hostile client gets nowhere."""

import asyncio
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.engine.unit.buildkit_peer import packets, session_with

from longshore.api.buildkit import packets as judged
from longshore.api.buildkit.contexts import Contexts
from longshore.api.buildkit.filesend import DIFF_COPY as FILE_SEND
from longshore.api.buildkit.filesend import send_trees
from longshore.api.buildkit.filesync import DIFF_COPY, OUTSTANDING, patterns, receive
from longshore.api.buildkit.grpc import Call
from longshore.api.buildkit.messages_session import DATA, ERR, FIN, REQ, STAT, Packet, Stat
from longshore.api.buildkit.packets import (
    GO_DEVICE,
    GO_DIRECTORY,
    GO_IRREGULAR,
    GO_LINK,
    Arrivals,
    go_mode,
    mode_of,
)
from longshore.build.trees import walk
from longshore.errors import InvalidArgument, Unsupported

FILE, FOLDER, LINK = 0o644, GO_DIRECTORY | 0o755, GO_LINK | 0o777


class Sender:
    """An honest fsutil sender over a dictionary; notes what it was asked for."""

    def __init__(self, files: dict[str, bytes | None], mtime: int = 1) -> None:
        self.files, self.mtime = files, mtime
        self.asked: list[str] = []
        self.metadata: dict[str, str] = {}

    async def serve(self, call: Call) -> None:
        self.metadata = call.metadata
        paths = sorted(self.files, key=lambda path: path.split("/"))
        for path in paths:
            data = self.files[path]
            told = (
                Stat(path, FOLDER) if data is None else Stat(path, FILE, size=len(data), mod_time=self.mtime)
            )
            await call.send(Packet(STAT, told).encode())
        await call.send(Packet(STAT).encode())
        while (message := await call.receive()) is not None:
            packet = Packet.decode(message)
            if packet.type == FIN:
                await call.send(Packet(FIN).encode())
                return
            assert packet.type == REQ
            path = paths[packet.id]
            self.asked.append(path)
            data = self.files[path] or b""
            for start in range(0, len(data), 1000):
                await call.send(Packet(DATA, id=packet.id, data=data[start : start + 1000]).encode())
            await call.send(Packet(DATA, id=packet.id).encode())


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(bounded())


def read(tree, path: str) -> bytes:  # type: ignore[no-untyped-def]
    with tree.open(tree.entry(path)) as stream:
        return stream.read()


def test_only_what_changed_is_sent_again(tmp_path: Path) -> None:
    async def test() -> None:
        contexts = Contexts(tmp_path / "contexts")
        files: dict[str, bytes | None] = {
            "a": None,
            **{f"a/{n:03}": b"%d" % n * 999 for n in range(3 * OUTSTANDING)},
        }
        sender = Sender(files)
        async with session_with({DIFF_COPY: sender.serve}) as session:
            tree = await receive(session, contexts, "context")
            assert len(sender.asked) == 3 * OUTSTANDING
            assert {path: read(tree, "/" + path) for path, data in files.items() if data} == {
                path: data for path, data in files.items() if data
            }
            tree.close()
            sender.asked.clear()
            files["a/000"] = b"new and of another length"
            del files["a/001"]
            again = await receive(session, contexts, "context")
            assert sender.asked == ["a/000"]
            assert read(again, "/a/000") == files["a/000"] and again.entry("/a/001") is None
            again.close()
            # Another daemon finds it, and what is no longer needed has gone.
            sender.asked.clear()
            later = Contexts(tmp_path / "contexts")
            (await receive(session, later, "context")).close()
            assert sender.asked == []
            assert len(list((tmp_path / "contexts/blobs").iterdir())) == 3 * OUTSTANDING - 1

    run(test())


def test_a_part_of_a_context_leaves_the_rest_known(tmp_path: Path) -> None:
    async def test() -> None:
        contexts = Contexts(tmp_path / "contexts")
        everything: dict[str, bytes | None] = {"one": b"1", "two": b"22"}
        sender = Sender(everything)
        async with session_with({DIFF_COPY: sender.serve}) as session:
            (await receive(session, contexts, "context")).close()
            sender.files = {"one": b"1"}
            (await receive(session, contexts, "context", paths=["one"])).close()
            assert sender.metadata["followpaths"] == "one"
            sender.files, sender.asked = everything, []
            (await receive(session, contexts, "context")).close()
            assert sender.asked == []

    run(test())


def test_lost_bytes_are_asked_for_again(tmp_path: Path) -> None:
    async def test() -> None:
        contexts = Contexts(tmp_path / "contexts")
        sender = Sender({"one": b"1", "two": b"22"})
        async with session_with({DIFF_COPY: sender.serve}) as session:
            (await receive(session, contexts, "context")).close()
            blobs = sorted((tmp_path / "contexts/blobs").iterdir(), key=lambda path: path.stat().st_size)
            blobs[0].write_bytes(b"")
            blobs[1].unlink()
            sender.asked.clear()
            tree = await receive(session, contexts, "context")
            assert sender.asked == ["one", "two"] and read(tree, "/two") == b"22"

    run(test())


def test_a_tree_in_use_keeps_its_bytes_while_the_context_changes(tmp_path: Path) -> None:
    async def test() -> None:
        contexts = Contexts(tmp_path / "contexts")
        sender = Sender({"one": b"first"})
        async with session_with({DIFF_COPY: sender.serve}) as session:
            tree = await receive(session, contexts, "context")
            sender.files = {"one": b"second!"}
            (await receive(session, contexts, "context")).close()
            assert read(tree, "/one") == b"first"
            tree.close()
            contexts.sweep()
            assert len(list((tmp_path / "contexts/blobs").iterdir())) == 1

    run(test())


def test_usage_counts_each_byte_once_and_forgetting_frees_it(tmp_path: Path) -> None:
    async def test() -> None:
        contexts = Contexts(tmp_path / "contexts")
        async with session_with({DIFF_COPY: Sender({"one": bytes(5000)}).serve}) as session:
            (await receive(session, contexts, "context")).close()
            (await receive(session, contexts, "other")).close()
        entries = contexts.usage()
        assert {entry.description for entry in entries} == {
            f"local source for {name}" for name in ("context", "other")
        }
        on_disk = sum(path.stat().st_size for path in (tmp_path / "contexts").rglob("*") if path.is_file())
        assert sum(entry.size for entry in entries) == on_disk > 5000
        assert contexts.forget([entries[0].id]) < 5000 <= contexts.forget([entries[1].id])
        assert [path for path in (tmp_path / "contexts").rglob("*") if path.is_file()] == []

    run(test())


def told(*stats: Stat) -> Callable[[Call], Awaitable[None]]:
    async def serve(call: Call) -> None:
        await packets(call, *stats)
        while (message := await call.receive()) is not None:
            if Packet.decode(message).type == FIN:
                await call.send(Packet(FIN).encode())
                return

    return serve


@pytest.mark.parametrize(
    ("stats", "words"),
    [
        ((Stat("../up", FILE),), "clean relative path"),
        ((Stat("/etc/passwd", FILE),), "clean relative path"),
        ((Stat("a/../../b", FILE),), "clean relative path"),
        ((Stat("a//b", FILE),), "clean relative path"),
        ((Stat("./a", FILE),), "clean relative path"),
        ((Stat("", FILE),), "no path"),
        ((Stat("a\0b", FILE),), "no path"),
        ((Stat("a" * 256, FILE),), "clean relative path"),
        ((Stat("/".join(["d"] * 3000), FILE),), "no path"),
        ((Stat("a/b", FILE),), "did not come before"),
        ((Stat("a", FILE), Stat("a/b", FILE)), "did not come before"),
        ((Stat("a", LINK, linkname="/etc"), Stat("a/b", FILE)), "did not come before"),
        ((Stat("b", FILE), Stat("a", FILE)), "out of order"),
        ((Stat("a", FILE), Stat("a", FILE)), "out of order"),
        ((Stat("a", FILE, linkname="b"), Stat("b", FILE)), "hard link"),
        ((Stat("a", FILE, linkname="/etc/shadow"),), "hard link"),
        ((Stat("d", FOLDER), Stat("e", FILE, linkname="d")), "hard link"),
        ((Stat("a", LINK, linkname="x\0"),), "no path"),
        ((Stat("a", FILE, size=-1),), "no number"),
        ((Stat("a", GO_IRREGULAR),), "unknown kind"),
        ((Stat("a", FILE, uid=-1),), "no number"),
    ],
)
def test_lies_about_files_are_refused(tmp_path: Path, stats: tuple[Stat, ...], words: str) -> None:
    async def test() -> None:
        contexts = Contexts(tmp_path / "contexts")
        async with session_with({DIFF_COPY: told(*stats)}) as session:
            with pytest.raises(InvalidArgument, match=words):
                await receive(session, contexts, "context")
        assert [path for path in (tmp_path / "contexts").rglob("*") if path.is_file()] == []

    run(test())


def test_links_and_devices_stay_entries_of_the_tree(tmp_path: Path) -> None:
    async def test() -> None:
        contexts = Contexts(tmp_path / "contexts")
        stats = (
            Stat("dev", GO_DEVICE | 0o600, devmajor=8, devminor=1),
            Stat("link", LINK, linkname="/etc/shadow"),
            Stat("up", LINK, linkname="../../.."),
        )
        async with session_with({DIFF_COPY: told(*stats)}) as session:
            tree = await receive(session, contexts, "context")
        found = {entry.path: (entry.kind, entry.link, entry.device) for entry in walk(tree, tree.entry("/"))}
        assert found["/link"] == (stat.S_IFLNK, "/etc/shadow", (0, 0))
        assert found["/dev"] == (stat.S_IFBLK, "", (8, 1))
        # Nothing but the list of them is on this disk.
        assert {path.name for path in (tmp_path / "contexts").rglob("*") if not path.is_dir()} == {
            path.name for path in (tmp_path / "contexts/indices").iterdir()
        }

    run(test())


async def _endless(call: Call) -> None:
    await packets(call, Stat("big", FILE, size=10))
    request = Packet.decode(await call.receive() or b"")
    while True:
        await call.send(Packet(DATA, id=request.id, data=bytes(1 << 20)).encode())


async def _unasked(call: Call) -> None:
    await packets(call, Stat("a", FOLDER))
    await call.send(Packet(DATA, id=0, data=b"x").encode())


async def _early_end(call: Call) -> None:
    await packets(call, Stat("a", FILE, size=1))


async def _early_fin(call: Call) -> None:
    await packets(call, Stat("a", FILE, size=1))
    await call.send(Packet(FIN).encode())


async def _error(call: Call) -> None:
    await call.send(Packet(ERR, data=b"lstat secret: permission denied").encode())


async def _after_the_end(call: Call) -> None:
    await packets(call, Stat("a", FOLDER))
    await packets(call, Stat("b", FOLDER))


async def _odd_type(call: Call) -> None:
    await call.send(Packet(77).encode())


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (_endless, "more than the 10 bytes"),
        (_unasked, "nobody asked for"),
        (_early_end, "broke off"),
        (_early_fin, "too early"),
        (_error, "permission denied"),
        (_after_the_end, "after the end"),
        (_odd_type, "unknown type"),
    ],
)
def test_transfers_that_go_wrong_leave_nothing(
    tmp_path: Path, serve: Callable[[Call], Awaitable[None]], words: str
) -> None:
    async def test() -> None:
        contexts = Contexts(tmp_path / "contexts")
        async with session_with({DIFF_COPY: serve}) as session:
            with pytest.raises(InvalidArgument, match=words):
                await receive(session, contexts, "context")
        assert [path for path in (tmp_path / "contexts").rglob("*") if path.is_file()] == []

    run(test())


def test_endless_files_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged, "MAX_FILES", 100)
    arrivals = Arrivals()
    with pytest.raises(InvalidArgument, match="more than 100 files"):
        for number in range(1000):
            arrivals.take(Stat(f"{number:04}", FILE))


def test_a_client_without_files_is_told_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with session_with({}) as session:
            with pytest.raises(Unsupported, match="FileSync/DiffCopy not supported by the client"):
                await receive(session, Contexts(tmp_path / "contexts"), "context")

    run(test())


def test_results_go_out_as_the_client_asks(tmp_path: Path) -> None:
    """The tree of one transfer is sent back by another, to a receiver that wants every file."""

    async def test() -> None:
        contexts = Contexts(tmp_path / "contexts")
        files: dict[str, bytes | None] = {"a": None, "a/x": b"1" * 5000, "b": b""}
        got: dict[int, bytes] = {}
        stats: list[Stat] = []

        async def take(call: Call) -> None:
            while True:
                packet = Packet.decode(await call.receive() or b"")
                if packet.stat is None:
                    break
                stats.append(packet.stat)
            wanted = [n for n, told in enumerate(stats) if not told.mode & GO_DIRECTORY]
            for number in wanted:
                await call.send(Packet(REQ, id=number).encode())
                got[number] = b""
                while data := Packet.decode(await call.receive() or b"").data:
                    got[number] += data
            await call.send(Packet(FIN).encode())
            assert Packet.decode(await call.receive() or b"").type == FIN

        async with session_with({DIFF_COPY: Sender(files).serve, FILE_SEND: take}) as session:
            tree = await receive(session, contexts, "context")
            await send_trees(session, 0, {"": tree}, epoch=77)
        assert [told.path for told in stats] == ["a", "a/x", "b"]
        assert got == {1: b"1" * 5000, 2: b""}
        assert {told.mod_time for told in stats} == {77 * 10**9}

    run(test())


@pytest.mark.parametrize("mode", [0o644, 0o4755, 0o2755, 0o1777])
@pytest.mark.parametrize(
    "kind", [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO]
)
def test_modes_go_both_ways(kind: int, mode: int) -> None:
    assert mode_of(go_mode(kind | mode)) == kind | mode


def test_ignore_lines_become_patterns() -> None:
    lines = ["# comment", "", "  *.log ", "/build/", "!keep/../keep.log", "a//b", "."]
    assert patterns(lines) == ["*.log", "build", "!keep.log", "a/b", "."]
