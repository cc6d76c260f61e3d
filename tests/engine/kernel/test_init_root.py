"""What a container sees as its root: layers, mounts, masked paths, devices."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_lab import (
    Box,
    bind,
    in_monitor,
    make_spec,
    needs_root,
    pytest_box,
)

from longshore.errors import StartFailed
from longshore.oci.runtime_spec import (
    Device,
    Mount,
)
from longshore.runtime.bundle import MOUNTS
from longshore.runtime.init import spawn_init
from longshore.runtime.messages import OverlayRoot, PlainRoot

pytestmark = needs_root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    yield from pytest_box(tmp_path_factory)


def test_the_root_is_an_overlay_that_nobody_else_sees(box: Box) -> None:
    root = box.overlay()
    before = Path("/proc/self/mountinfo").read_text()
    result = box.script("echo new > /tmp/file; rm /etc/group; grep ' / / ' /proc/self/mountinfo", root=root)
    assert " overlay " in result.out
    assert Path("/proc/self/mountinfo").read_text() == before
    assert (Path(root.upper) / "tmp/file").read_text() == "new\n"
    assert (box.rootfs / "etc/group").exists()


def test_a_hundred_and_twenty_layers_fit(box: Box, tmp_path: Path) -> None:
    layers = tmp_path / "layers"
    names: list[str] = []
    for number in range(120):
        name = f"{number:012x}"
        (layers / name).mkdir(parents=True)
        (layers / name / f"file{number}").write_text(str(number))
        names.append(name)
    (layers / "base").symlink_to(box.rootfs)
    (tmp_path / "upper").mkdir()
    (tmp_path / "work").mkdir()
    root = OverlayRoot(
        str(layers), (*reversed(names), "base"), str(tmp_path / "upper"), str(tmp_path / "work")
    )
    assert box.script("ls / | grep -c ^file", root=root).out == "120\n"


def test_paths_with_the_characters_of_overlay_options(box: Box, tmp_path: Path) -> None:
    here = tmp_path / "a,b:c\\d"
    (here / "upper").mkdir(parents=True)
    (here / "work").mkdir()
    root = OverlayRoot(str(box.path / "layers"), ("top", "base"), str(here / "upper"), str(here / "work"))
    assert box.script("touch /made", root=root).code == 0
    assert (here / "upper/made").exists()


def test_an_upper_directory_on_an_overlay_is_explained(box: Box) -> None:
    def nested() -> str:
        return box.script(
            "mkdir -p /o/l /o/u /o/w /o/m && mount -t overlay o -o lowerdir=/o/l,upperdir=/o/u,workdir=/o/w /o/m 2>&1"
        ).out

    inner = box.overlay()
    outer = box.path / "outer"
    for name in ("upper", "work", "merged"):
        (outer / name).mkdir(parents=True)

    def monitor() -> None:
        from longshore.kernel import mounts, namespaces

        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        options = f"lowerdir={box.path}/layers/top,upperdir={outer}/upper,workdir={outer}/work"
        mounts.mount("overlay", str(outer / "merged"), "overlay", 0, options)
        (outer / "merged/upper").mkdir()
        (outer / "merged/work").mkdir()
        root = OverlayRoot(
            inner.layers_dir, inner.lowers, str(outer / "merged/upper"), str(outer / "merged/work")
        )
        launch = box.launch(make_spec("true"), root)
        spawn_init(launch).proceed()

    with pytest.raises(StartFailed, match="put it on a volume"):
        in_monitor(monitor)


def test_a_plain_folder_can_be_the_root(box: Box) -> None:
    result = box.script(
        "touch /etc/new; awk '$5 == \"/\"' /proc/self/mountinfo | wc -l", root=PlainRoot(str(box.rootfs))
    )
    (box.rootfs / "etc/new").unlink()
    assert (result.code, result.out) == (0, "1\n")


def test_the_old_root_is_gone(box: Box) -> None:
    lines = box.script("cat /proc/1/mountinfo; ls /..").out
    assert str(box.path) not in lines.replace("lowerdir", "").split(" - overlay")[0]
    assert "home" in lines and "boot" not in lines.split()


def test_a_readonly_root_still_has_writable_mounts(box: Box) -> None:
    result = box.script("touch /x; touch /dev/shm/y && echo shm; touch /tmp/z && echo tmp", readonly=True, mounts=(
        *MOUNTS, Mount("/tmp", "tmpfs", "tmpfs", ("size=1m",)), Mount("/deep/ro", "tmpfs", "tmpfs", ("ro",))
    ))  # fmt: skip
    assert result.out == "shm\ntmp\n"
    assert "Read-only file system" in result.err


def test_masked_and_readonly_paths(box: Box) -> None:
    result = box.script(
        "wc -c < /proc/keys; wc -c < /proc/timer_list; ls /proc/acpi /sys/firmware | grep -v :; "
        "echo 1 > /proc/sys/kernel/msgmax; echo b > /proc/irq/default_smp_affinity; echo x > /sys/kernel/profiling"
    )
    assert result.out.split() == ["0", "0"]
    assert result.err.count("Read-only file system") == 3


BIND_CASES = [
    (("rbind", "rprivate"), "touch /data/new && echo ok", "ok\n"),
    (("rbind", "ro"), "touch /data/new || echo refused", "refused\n"),
    (("rbind", "rro"), "touch /data/sub/new || echo refused", "refused\n"),
    (("rbind", "noexec"), "/data/program || echo refused", "refused\n"),
    (("bind", "nosuid", "nodev"), "grep ' /data ' /proc/self/mountinfo | grep -c nosuid,nodev", "1\n"),
    (("bind", "noatime"), "grep ' /data ' /proc/self/mountinfo | grep -c noatime", "1\n"),
    (("bind",), "cat /data/file", "text\n"),
]


@pytest.mark.parametrize(("options", "script", "expected"), BIND_CASES)
def test_bind_mounts(box: Box, tmp_path: Path, options: tuple[str, ...], script: str, expected: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").write_text("text\n")
    (tmp_path / "program").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "program").chmod(0o755)
    result = box.script(script, mounts=(*MOUNTS, bind(tmp_path, "/data", *options)))
    assert result.out == expected


def test_missing_mount_points_are_made_for_files_and_folders(box: Box, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from host\n")
    (box.rootfs / "lock").symlink_to("/run/lock") if not (box.rootfs / "lock").is_symlink() else None
    mounts = (
        *MOUNTS,
        bind(tmp_path / "file", "/a/b/file"),
        bind(tmp_path, "/lock/deep"),
        Mount("/t/m/p", "tmpfs", "tmpfs", ("mode=1777",)),
    )
    result = box.script("cat /a/b/file /run/lock/deep/file; stat -c %a /t/m/p", mounts=mounts)
    assert result.out == "from host\nfrom host\n1777\n"


def test_a_shared_bind_shows_later_mounts_of_the_host(box: Box, tmp_path: Path) -> None:
    """Slave propagation survives the cut that makes everything else private."""
    from longshore.kernel import mounts as kernel
    from longshore.kernel import namespaces

    (tmp_path / "shared/later").mkdir(parents=True)
    launch = box.launch(
        make_spec(
            "sh",
            "-c",
            "sleep 0.3; ls /data/later",
            mounts=(*MOUNTS, bind(tmp_path / "shared", "/data", "rbind", "rslave")),
        )
    )

    def monitor() -> str:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount(str(tmp_path / "shared"), str(tmp_path / "shared"), None, kernel.MS_BIND)
        kernel.mount(None, str(tmp_path / "shared"), None, kernel.MS_SHARED)
        init = spawn_init(launch)
        init.proceed()
        kernel.mount("tmpfs", str(tmp_path / "shared/later"), "tmpfs")
        (tmp_path / "shared/later/seen").touch()
        assert init.stdout_fd is not None
        data = os.read(init.stdout_fd, 1000).decode()
        init.abandon()
        return data

    assert in_monitor(monitor) == "seen\n"


def test_device_nodes_and_links(box: Box) -> None:
    extra = Device("/dev/more/extra", "c", 1, 5, 0o640, 33, 44)
    result = box.script(
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done;"
        "stat -c '%n %t:%T %a %u %g' /dev/more/extra; for l in fd stdout ptmx; do readlink /dev/$l; done; head -c3 /dev/zero | wc -c",
        devices=(extra,),
    )
    assert result.out.splitlines() == [
        "/dev/null 1:3 666",
        "/dev/zero 1:5 666",
        "/dev/full 1:7 666",
        "/dev/random 1:8 666",
        "/dev/urandom 1:9 666",
        "/dev/tty 5:0 666",
        "/dev/more/extra 1:5 640 33 44",
        "/proc/self/fd",
        "/proc/self/fd/1",
        "pts/ptmx",
        "3",
    ]
