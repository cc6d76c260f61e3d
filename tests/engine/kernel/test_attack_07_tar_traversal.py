"""Attack 7: names and links in a layer that lead out of its directory (CVE-2026-17106, CVE-2025-4517 and others).

Each archive goes through every door that takes one: a layer, an import, a load. The tree around the target is compared
before and after, and so is a canary directory that the archives try to reach by its absolute path.
"""

import copy
from pathlib import Path

import pytest
from layer_lab import Lab, Member, chunks, device, directory, entry, hardlink, picture, symlink, tar
from tests.engine.images import docker_archive

from longshore.core.database import Database
from longshore.core.events import EventBus
from longshore.core.images.facade import Images
from longshore.errors import EngineError

CANARY = "CANARY"  # replaced by the absolute path of a directory outside, in names and link targets
UP = "../" * 12


def deep_links(depth: int) -> list[Member]:
    """Links in a chain, each a directory further up (CVE-2025-4517 made realpath give up this way)."""
    members = [directory("d" * 200)]
    for number in range(depth):
        members.append(
            symlink(f"l{number}", ("d" * 200 + "/../") * 10 + (f"l{number - 1}" if number else "."))
        )
    return [*members, symlink("escape", f"l{depth - 1}/{UP}CANARY"), entry("escape/evil", b"evil")]


REFUSED: dict[str, list[Member]] = {
    "dot-dot": [entry(f"{UP}CANARY/evil", b"evil")],
    "dot-dot in the middle": [directory("a"), entry(f"a/{UP}CANARY/evil", b"evil")],
    "dot-dot directory": [directory(f"{UP}CANARY/sub", 0o777)],
    "dot-dot at the end": [directory("a/..", 0o777)],
    "link then file": [symlink("l", CANARY), entry("l/evil", b"evil")],
    "link then directory": [symlink("l", CANARY), directory("l/sub")],
    "relative link then file": [symlink("a/l", UP), entry("a/l/CANARY/evil", b"evil")],
    "link chain": [symlink("a", "b"), symlink("b", CANARY), entry("a/evil", b"evil")],
    "link to the root": [symlink("l", "/"), entry("l/evil", b"evil")],
    "40 links deep": deep_links(40),
    "hard link outside": [hardlink("h", f"{CANARY}/secret")],
    "hard link dot-dot": [hardlink("h", f"{UP}CANARY/secret")],
    "hard link through a link": [symlink("l", CANARY), hardlink("h", "l/secret")],
    "whiteout of dot-dot": [entry(".wh...")],
    "whiteout of dot": [entry(".wh..")],
    "whiteout of nothing": [entry(".wh.")],
    "whiteout through a link": [symlink("l", CANARY), entry("l/.wh.secret")],
    "opaque through a link": [symlink("l", CANARY), entry("l/.wh..wh..opq")],
    "file as directory": [entry("f", b"x"), entry("f/evil", b"evil")],
    "component too long": [entry("x" * 256, b"")],
    "path too deep": [entry("/".join("d" * 300), b"")],
}
CONTAINED: dict[str, list[Member]] = {
    "absolute": [entry("CANARY/evil", b"evil")],
    "absolute with slashes": [entry("//./CANARY//./evil", b"evil")],
    "file over link": [symlink("l", f"{CANARY}/secret"), entry("l", b"evil")],
    "directory over link": [symlink("l", CANARY), directory("l", 0o777), entry("l/evil", b"evil")],
    "hard link to a link": [symlink("l", f"{CANARY}/secret"), hardlink("h", "l"), entry("h", b"evil")],
    "mode of a link": [symlink("l", f"{CANARY}/secret"), hardlink("h", "l")],
    "device over link": [symlink("l", f"{CANARY}/secret"), device("l", 1, 3)],
    "many duplicates": [entry("f", b"x")] * 500 + [directory("f"), entry("f", b"x")] * 50,
    "long path": [entry("/".join(["n" * 100] * 30), b"x")],
    "the root as a link": [symlink("./", CANARY), entry("evil", b"evil")],
    "whiteouts": [entry(".wh.secret"), entry("tmp/.wh..wh..opq")],
}
CORPUS = {**REFUSED, **CONTAINED}


def aimed(members: list[Member], canary: Path) -> bytes:
    """The archive with its target filled in. tarfile drops leading slashes nowhere, so absolute stays absolute."""
    copies: list[Member] = []
    for info, data in members:
        clone = copy.copy(info)
        clone.name = clone.name.replace(f"{UP}CANARY", UP + str(canary)[1:]).replace("CANARY", str(canary))
        clone.linkname = clone.linkname.replace(f"{UP}CANARY", UP + str(canary)[1:]).replace(
            "CANARY", str(canary)
        )
        copies.append((clone, data))
    return tar(*copies)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o711)
    (outside / "secret").write_text("secret")
    (outside / "secret").chmod(0o600)
    return outside


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab")


def around(tmp_path: Path) -> dict[str, tuple[object, ...]]:
    """All that must not change: the canary and everything beside the stores."""
    seen = picture(tmp_path)
    return {name: what for name, what in seen.items() if not name.startswith("lab/")}


@pytest.mark.parametrize("name", CORPUS)
def test_attack_07_a_layer_stays_inside(name: str, lab: Lab, canary: Path, tmp_path: Path) -> None:
    """Fails when names are joined to the layer's folder instead of walked."""
    before, data = around(tmp_path), aimed(CORPUS[name], canary)
    if name in REFUSED:
        with pytest.raises(EngineError, match="invalid layer"):
            lab.unpack(data)
        assert len(lab.layers.list()) == 1  # the empty layer
    else:
        lab.unpack(data)
    assert around(tmp_path) == before
    assert lab.leftovers() == []


@pytest.mark.parametrize("name", CORPUS)
async def test_attack_07_import_and_load_stay_inside(
    name: str, lab: Lab, canary: Path, tmp_path: Path
) -> None:
    """Fails when names are joined to the layer's folder instead of walked."""
    database = Database(tmp_path / "lab/db")
    images = Images(database, lab.content, lab.layers, EventBus())
    before, data = around(tmp_path), aimed(CORPUS[name], canary)
    for send in (
        lambda: images.archives.import_(chunks(data), "evil:1"),
        lambda: images.archives.load(chunks(docker_archive([data], "evil:2", {})), lambda _message: None),
    ):
        if name in REFUSED:
            with pytest.raises(EngineError, match="invalid layer"):
                await send()
            assert images.list() == []
            assert lab.content.list() == []
        else:
            await send()
    assert around(tmp_path) == before
    await images.shelf.close()
    database.close()


@pytest.mark.parametrize("name", CORPUS)
async def test_attack_07_an_archive_of_images_with_such_names_writes_no_file(
    name: str, lab: Lab, canary: Path, tmp_path: Path
) -> None:
    """The same names as members of the outer archive: they are keys, never paths. Fails when members of the
    outer archive are unpacked by their names."""
    database = Database(tmp_path / "lab/db")
    images = Images(database, lab.content, lab.layers, EventBus())
    before = around(tmp_path)
    with pytest.raises(EngineError, match="invalid image archive"):
        await images.archives.load(chunks(aimed(CORPUS[name], canary)), lambda _message: None)
    assert around(tmp_path) == before
    assert lab.content.list() == []
    database.close()


def test_attack_07_the_worker_itself_has_no_way_out(lab: Lab, canary: Path) -> None:
    """Even without the walk: the process that unpacks cannot name anything outside its directory. Fails when
    the worker keeps the host's root, its capabilities or its descriptors."""
    import subprocess
    import sys

    from longshore.storage import jobs

    target = lab.root / "target"
    target.mkdir()
    program = (
        f"import sys; sys.path[:] = {list(jobs._import_path())!r}\n"
        "import os\n"
        "from longshore.storage.worker import confine\n"
        f"confine({str(target)!r})\n"
        f"print(os.listdir('/'), os.path.exists({str(canary)!r}), os.listdir('/../..'), len(sys.path))\n"
        "try: import wave\n"
        "except ImportError: print('no imports')\n"
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "ways = [('socket', 1, 1, 0), ('unshare', 0x20000), ('mount', b'a', b'/', b'tmpfs', 0, None), ('fork',),\n"
        "        ('kill', 1, 0), ('ptrace', 0, 0, 0, 0), ('execv', b'/', None), ('chroot', b'/'), ('setns', 0, 0)]\n"
        "print([(name, ctypes.get_errno()) for name, *given in ways if getattr(libc, name)(*given) != -1 or\n"
        "       ctypes.get_errno() != 1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[] False [] 0\nno imports\n[]\n"
