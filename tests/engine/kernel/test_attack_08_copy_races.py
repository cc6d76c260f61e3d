"""Attack 8: whoever copies for the user walks paths that the container changes meanwhile.

CVE-2018-15664 (docker cp), CVE-2026-41568 and CVE-2026-42306 (mount destinations), CVE-2017-1002101 (subpaths), and what
of the same kind our own engine had: hard links of a volume that is being filled, and the /dev/shm of a neighbour.
`LONGSHORE_ATTACK_COPIES=10000` (make suites-attacks) tries each race that often.
"""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from attack_lab import Connection, below, file_in, flipping, output, pid_of, run, tar_of, tries, until

from longshore.core.containers.record import State
from longshore.core.containers.roots import open_running
from longshore.core.copying import copy_tree
from longshore.errors import Conflict
from longshore.runtime.records import start_time

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


@pytest.fixture
def api(daemon: Any) -> Iterator[Any]:
    yield daemon.client.api
    daemon.remove_containers()
    daemon.request("POST", '/volumes/prune?filters={"all":["true"]}')


@pytest.fixture
def connection(daemon: Any) -> Iterator[Connection]:
    connection = Connection(daemon.socket)
    yield connection
    connection.close()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the host with the names that the attacks aim at."""
    folder = tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    (folder / "f").write_text("a secret of the host")
    (folder / "x").write_text("another")
    (folder / "f").chmod(0o600)
    return folder


@pytest.fixture
def victim(api: Any, outside: Path) -> tuple[str, int]:
    """A running container with a folder and a link to the outside, in its root and in a volume: (id, pid)."""
    script = "".join(
        f"mkdir {place}/d; echo -n mine >{place}/d/f; ln -s {outside} {place}/l; "
        for place in ("/tmp", "/vol")
    )
    id = run(api, f"{script} touch /ready; sleep 1000", binds=["victim:/vol"])
    pid = pid_of(api, id)
    until(Path(f"/proc/{pid}/root/ready").exists)
    return id, pid


@pytest.mark.parametrize("place", ["/tmp", "/vol"])
def test_attack_08_copying_in_while_the_folder_becomes_a_link(
    connection: Connection, victim: tuple[str, int], outside: Path, place: str
) -> None:
    """Fails when files.py and tarball.py resolve without RESOLVE_IN_ROOT."""
    id, pid = victim
    before = below(outside)
    answers: dict[int, int] = {}
    root = Path(f"/proc/{pid}/root")

    def met() -> bool:
        # The link leads to a place of that name inside, which the first such copy has made.
        inside = any(root.joinpath(str(outside)[1:]).glob("evil*"))
        return inside and any(path for name in "dl" for path in root.joinpath(place[1:], name).glob("evil*"))

    with flipping(f"{place}/d", f"{place}/l", pid=pid):
        for number in tries(met):
            # Alternately: the link is the folder to unpack into, and the first part of a name in the archive
            path, name = (f"{place}/d", "evil") if number % 2 else (place, f"d/evil{number}")
            status, _, body = connection.ask(
                "PUT", f"/containers/{id}/archive?path={quote(path)}", tar_of(name)
            )
            assert status in (200, 400, 404), body
            answers[status] = answers.get(status, 0) + 1
    print(f"copies into {place}: {answers}")
    assert below(outside) == before
    assert met(), "the race was never met"


@pytest.mark.parametrize("place", ["/tmp", "/vol"])
def test_attack_08_copying_out_while_the_folder_becomes_a_link(
    connection: Connection, victim: tuple[str, int], place: str
) -> None:
    """Fails when files.py resolves without RESOLVE_IN_ROOT, or packs by name."""
    id, pid = victim
    answers: dict[int, int] = {}
    with flipping(f"{place}/d", f"{place}/l", pid=pid):
        for number in tries(lambda: len(answers) > 1):
            path = quote(f"{place}/d/f" if number % 2 else f"{place}/d/")
            method = "HEAD" if number % 3 == 0 else "GET"
            status, headers, body = connection.ask(method, f"/containers/{id}/archive?path={path}")
            assert status in (200, 404), body
            answers[status] = answers.get(status, 0) + 1
            if status == 200 and method == "GET":
                assert file_in(body) == b"mine"
            elif status == 200 and number % 2:
                assert json.loads(base64.b64decode(headers["X-Docker-Container-Path-Stat"]))["size"] == 4
    print(f"copies out of {place}: {answers}")
    assert answers[200] and answers[404], "the race was never met"


def test_attack_08_a_mount_destination_that_becomes_a_link(
    api: Any, connection: Connection, victim: tuple[str, int], outside: Path
) -> None:
    """The second volume is mounted below a folder of the first, which a neighbour swaps. Fails when roots.py or
    mounts.py make their mount points by path: /sub and the mount then appear at the outside."""
    (outside / "sub").rmdir()
    before = below(outside)
    host = api.create_host_config(binds=["victim:/vol", "second:/vol/d/sub"])
    id = api.create_container("busybox", ["true"], host_config=host)["Id"]
    with flipping("/vol/d", "/vol/l", pid=victim[1]):
        for number in tries():
            status, _, body = connection.ask("HEAD", f"/containers/{id}/archive?path=/vol")
            assert status in (200, 400, 500), body
            if number % 8 == 0:
                status, _, body = connection.ask("POST", f"/containers/{id}/start")
                assert status in (204, 304, 400, 500), body
                connection.ask("POST", f"/containers/{id}/wait")
    assert below(outside) == before
    assert str(outside) not in Path("/proc/self/mountinfo").read_text()


def with_subpath(daemon: Any, command: str) -> str:
    """A container that has only the folder d of the victim's volume, at /x."""
    mount = {
        "Type": "volume",
        "Source": "victim",
        "Target": "/x",
        "VolumeOptions": {"Subpath": "d"},
    }
    body = {"Image": "busybox", "Cmd": ["sh", "-c", command], "HostConfig": {"Mounts": [mount]}}
    for _ in range(200):  # at the moment of the request it may be the link
        status, reply = daemon.request("POST", "/containers/create", body)
        if status == 201:
            return str(reply["Id"])
    raise AssertionError(reply)


def test_attack_08_a_volume_subpath_that_becomes_a_link(
    daemon: Any, api: Any, connection: Connection, victim: tuple[str, int], outside: Path
) -> None:
    """CVE-2017-1002101. Fails when the subpath is resolved at create and mounted by path at the start."""
    id = with_subpath(daemon, "cat /x/f")
    answers: dict[int, int] = {}
    with flipping("/vol/d", "/vol/l", pid=victim[1]):
        for number in tries(lambda: len(answers) > 1):
            status, _, body = connection.ask("GET", f"/containers/{id}/archive?path=/x/f")
            assert status != 200 or file_in(body) == b"mine"
            if number % 4:
                continue
            status, _, body = connection.ask("POST", f"/containers/{id}/start")
            assert status in (204, 400, 500), body
            connection.ask("POST", f"/containers/{id}/wait")
            answers[status] = answers.get(status, 0) + 1
    said = api.logs(id).replace(b"mine", b"")
    assert said == b"", said
    assert answers[204] and len(answers) > 1, "the race was never met"


@pytest.mark.parametrize(
    "script", ["sleep 1000", "umount /dev/shm && rmdir /dev/shm && ln -s {} /dev/shm && sleep 1000"]
)
def test_attack_08_the_shm_of_a_neighbour_is_looked_up_inside_of_it(
    daemon: Any, api: Any, outside: Path, script: str
) -> None:
    """`--ipc container:X` mounts X's /dev/shm, which X may have made a link. Fails when launch.py names it
    /proc/<pid>/root/dev/shm: the link then starts at the host's root."""
    evil = "ln" in script
    donor = run(
        api,
        script.format(outside),
        ipc_mode="shareable",
        cap_add=["SYS_ADMIN"],
        security_opt=["seccomp=unconfined"],
    )
    shm = Path(f"/proc/{pid_of(api, donor)}/root/dev/shm")
    until(lambda: shm.is_symlink() == evil)
    try:
        said = output(api, "ls /dev/shm; cat /dev/shm/f", ipc_mode=f"container:{donor}")
    except Exception as error:
        assert evil, error
    else:
        assert not evil
        assert "secret" not in said


def test_attack_08_a_private_shm_is_not_shared(api: Any) -> None:
    """Fails when any container's IPC may be joined."""
    donor = run(api, "sleep 1000", ipc_mode="none")
    with pytest.raises(Exception, match="non-shareable IPC"):
        run(api, "true", ipc_mode=f"container:{donor}")


def test_attack_08_a_recycled_pid_is_not_the_container() -> None:
    """The container has ended and its number is a process of the host now, whose root is the host's. Fails
    when the pid is taken without its start time."""
    here = os.getpid()
    os.close(open_running(State(pid=here, pid_start=start_time(here) or 0)))
    with pytest.raises(Conflict, match="just ended"):
        open_running(State(pid=here, pid_start=1))


# While a volume is filled from the image, another container that has it too swaps what has just been made.
_SWAP_FOLDERS = """
import os, sys
volume, outside = sys.argv[1:]
print("ready", flush=True)
while True:
    done = [name for name in os.listdir(volume) if name[0] == "d" and os.path.exists(f"{volume}/{name}/x")]
    if len(done) > 1:
        for name in done:
            os.rename(f"{volume}/{name}", f"{volume}/was-{name}")
            os.symlink(outside, f"{volume}/{name}")
        break
"""
_SWAP_NODES = """
import os, sys
volume, outside, names = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
links = f"{volume}-links"
for name in names:
    os.symlink(f"{outside}/f", f"{links}/{name}")
print("ready", flush=True)
for name in names:
    while not os.path.lexists(f"{volume}/{name}"):
        pass
    os.rename(f"{links}/{name}", f"{volume}/{name}")
"""


def race_copy(source: Path, volume: Path, code: str, *words: str) -> None:
    """Copy while the code runs beside us; losing the race may fail the copy, which is fine."""
    volume.mkdir()
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code, str(volume), *words], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout and other.stdout.readline() == b"ready\n"
        fd = os.open(source, os.O_RDONLY)
        try:
            copy_tree(fd, volume)
        except OSError as error:
            print(f"the copy gave up: {error}")
        finally:
            os.close(fd)
            other.kill()


def test_attack_08_hard_links_of_a_volume_that_is_being_filled(tmp_path: Path, outside: Path) -> None:
    """The image has the same file in 40 folders, the attacker makes a filled one a link to the outside. Fails when
    copy_tree links by name: the host's file gets a name inside of the volume."""
    image = tmp_path / "image"
    for number in range(40):
        folder = image / f"d{number}"
        folder.mkdir(parents=True)
        for filler in range(30):
            (folder / f"file{filler}").write_text("x")
        if number:
            os.link(image / "d0/x", folder / "x")
        else:
            (folder / "x").write_text("of the image")
    before = below(outside)
    race_copy(image, tmp_path / "volume", _SWAP_FOLDERS, str(outside))
    assert any(path.is_symlink() for path in (tmp_path / "volume").iterdir()), "the race was never met"
    assert below(outside) == before


def test_attack_08_device_nodes_of_a_volume_that_is_being_filled(tmp_path: Path, outside: Path) -> None:
    """Fails when copy_tree sets modes by name: chmod(2) follows the link that has taken the node's place."""
    image = tmp_path / "image"
    image.mkdir()
    for number in range(400):
        os.mkfifo(image / f"n{number}")
        (image / f"n{number}").chmod(0o666)
    before = below(outside)
    for round in range(8):
        volume = tmp_path / f"volume{round}"
        (tmp_path / f"volume{round}-links").mkdir()
        race_copy(image, volume, _SWAP_NODES, str(outside), ",".join(path.name for path in image.iterdir()))
    assert below(outside) == before


def test_attack_08_folders_without_end(daemon: Any, api: Any) -> None:
    """A container nests 1,500 folders. What walks them must neither run out of stack or descriptors nor stop the
    removal. Fails without the limits on depth in files.py and tarball.py: a traceback in the daemon's log."""
    id = run(api, "sleep 1000")
    top = os.open(f"/proc/{pid_of(api, id)}/root/tmp", os.O_RDONLY)
    child = os.fork()
    if not child:
        os.fchdir(top)
        for _ in range(1500):
            os.mkdir("d")  # noqa: PTH102 - a path would be too long
            os.chdir("d")
        os._exit(0)
    os.close(top)
    assert os.waitpid(child, 0)[1] == 0
    log = daemon.log.stat().st_size
    with pytest.raises(Exception, match="nested too deeply"):
        api.diff(id)
    for stream in (lambda: api.get_archive(id, "/tmp")[0], lambda: api.export(id)):
        with pytest.raises(Exception):  # noqa: B017 - cut off; whichever error the client library has for it
            b"".join(stream())
    with pytest.raises(Exception, match="deeper than"):
        api.commit(id, "deep")
    assert api.containers(size=True)[0]["SizeRw"] >= 0
    begun = time.monotonic()
    api.remove_container(id, force=True)
    assert time.monotonic() - begun < 60
    with daemon.log.open() as file:
        file.seek(log)
        assert "Traceback" not in file.read()
