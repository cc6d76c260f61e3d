"""Attack 9: code of the container run by the host's side of the engine.

CVE-2019-14271 (an NSS library), CVE-2026-41567 (a decompressor on PATH); in Python also a late import, a codec, a source
line for a traceback. The image is full of such files, and fanotify(7) tells which of them anybody opened.
"""

import gzip
import io
import lzma
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attack_lab import pid_of, run, tar_of, until
from fanotify import inodes, watching
from runtime_lab import Box, Running, make_rootfs, needs_root, pytest_box
from tests.engine.images import busybox_layer, docker_archive

from longshore.errors import StartFailed
from longshore.oci.runtime_spec import User
from longshore.runtime.messages import PlainRoot

pytestmark = needs_root

EVIL = b"#!/bin/sh\necho evil\n"
MODULES = ("codecs", "linecache", "traceback", "pwd", "grp", "encodings/idna", "encodings/ascii", "encodings/utf_8",
           "encodings/punycode", "longshore/runtime/late", "ctypes/__init__", "_strptime", "locale")  # fmt: skip
LIBRARIES = ("libnss_files.so.2", "libnss_dns.so.2", "libnss_compat.so.2", "libgcc_s.so.1", "libc.so.6",
             "libseccomp.so.2", "libpthread.so.0", "gconv/UTF-16.so", "gconv/gconv-modules")  # fmt: skip
FILES = ("etc/nsswitch.conf", "etc/ld.so.cache", "etc/ld.so.preload", "etc/localtime", "etc/host.conf",
         "etc/resolv.conf", "etc/gai.conf", "usr/lib/locale/locale-archive", "usr/share/zoneinfo/UTC",
         "usr/lib/os-release", "pyvenv.cfg")  # fmt: skip
PROGRAMS = (
    "xz",
    "unxz",
    "unpigz",
    "pigz",
    "gzip",
    "gunzip",
    "bzip2",
    "zstd",
    "tar",
    "ps",
    "nsenter",
    "iptables",
)


def planted() -> list[str]:
    """Names below a root where a careless process would find our code."""
    folders = {
        entry.strip("/") for entry in (*sys.path, "", "/usr/lib/python3.11", "/usr/lib/python3/dist-packages")
    }
    names = [f"{folder}/{module}.py".lstrip("/") for folder in sorted(folders) for module in MODULES]
    places = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "usr/lib", "lib64")
    names += [f"{place}/{library}" for place in places for library in LIBRARIES]
    names += FILES
    return names + [f"{place}/{program}" for place in ("usr/bin", "usr/local/bin") for program in PROGRAMS]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    yield from pytest_box(tmp_path_factory)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    root = make_rootfs(tmp_path / "evil")
    for name in planted():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(EVIL)
        path.chmod(0o755)
    return root


def test_attack_09_a_start_opens_the_user_files_and_the_program(box: Box, evil: Path) -> None:
    """Fails when anything is imported, decoded by a codec or asked of NSS after the switch of the root."""
    web = User(username="web")

    def more(running: Running) -> str:
        with pytest.raises(StartFailed):
            running.execute("no-such-program", user=web)
        with pytest.raises(StartFailed):
            running.execute("true", user=User(username="nobody\u00eb"))
        return running.execute("id", "-u", user=web).out

    with watching(inodes(evil), [evil]) as opened:
        assert box.run("id", "-u", root=PlainRoot(str(evil)), user=web).out == "33\n"
        with pytest.raises(StartFailed):
            box.run("nothing\u00eb", root=PlainRoot(str(evil)), user=web)
        launch_root = box.overlay
        box.overlay = lambda: PlainRoot(str(evil))  # type: ignore[method-assign,assignment,return-value]
        try:
            assert box.with_running(more, user=web) == "33\n"
        finally:
            box.overlay = launch_root  # type: ignore[method-assign]
    assert opened.files == {"etc/passwd", "etc/group", "bin/busybox"}
    assert opened.executed == {"bin/busybox"}


def test_attack_09_nothing_that_the_daemon_does_runs_the_images_code(daemon: Any, tmp_path: Path) -> None:
    """Exec, top, stats, health, copies in (compressed too) and out, diff, and a build that unpacks an archive.

    Fails when one of them looks up a name, a decompressor or a module inside of the container.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name in dict.fromkeys(planted()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(EVIL), 0o755
            archive.addfile(entry, io.BytesIO(EVIL))
    config = {
        "Cmd": ["sleep", "1000"],
        "Env": ["PATH=/bin"],
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9},
    }
    daemon.load(docker_archive([busybox_layer(), layer.getvalue()], "planted:1", config))
    api = daemon.client.api
    try:
        id = run(api, ["sleep", "1000"], image="planted:1")
        root = f"/proc/{pid_of(api, id)}/root"
        overlay = {
            key: name for key, name in inodes(f"{root}/").items() if not name.startswith(("proc/", "sys/"))
        }
        table = overlay | inodes(daemon.data / "layers")
        with watching(table, [f"{root}/", daemon.data / "layers"]) as opened:
            for user in ("root", "nobody", "12345"):
                api.exec_start(api.exec_create(id, ["true"], user=user)["Id"])
            api.top(id)
            api.stats(id, stream=False)
            archive = tar_of("new", b"x" * 5000)
            for body in (archive, gzip.compress(archive), lzma.compress(archive)):
                api.put_archive(id, "/tmp", body)
            b"".join(api.get_archive(id, "/etc/passwd")[0])
            api.diff(id)
            (tmp_path / "a.tar.xz").write_bytes(lzma.compress(archive))
            (tmp_path / "a.tar.gz").write_bytes(gzip.compress(archive))
            (tmp_path / "Dockerfile").write_text(
                "FROM planted:1\nADD a.tar.xz /one/\nADD a.tar.gz /two/\nCOPY --chown=nobody a.tar.gz /three\nUSER nobody\n"
            )
            daemon.docker("build", "-t", "planted:2", str(tmp_path))
            until(lambda: api.inspect_container(id)["State"]["Health"]["Log"])
    finally:
        daemon.remove_containers()
        for tag in ("planted:2", "planted:1"):
            daemon.request("DELETE", f"/images/{tag}?force=1")
    evil = {name for name in opened.files if name.endswith(tuple(f"/{name}" for name in planted()))}
    assert not evil | (opened.files & set(planted()))
    assert {"etc/passwd", "etc/group"} <= opened.files, "nothing was seen at all"
    assert opened.executed, "nothing was seen at all"
    assert all("/bin/" in f"/{name}" for name in opened.executed), opened.executed
