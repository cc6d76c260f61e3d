"""Attacks 3, 4 and 5: a neighbour shares the root, or a volume that is /dev, and swaps files while a container starts.

CVE-2025-31133 (masked paths), CVE-2025-52565 (console), CVE-2025-52881 and CVE-2019-19921 (writes meant for procfs).
The states that a swap leads to are tested one by one in test_attack_runtime.py; here the swap never stops.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from attack_lab import flipping, tries
from runtime_lab import Box, bind, make_rootfs, needs_root, pytest_box

from longshore.errors import StartFailed
from longshore.oci.runtime_spec import Mount
from longshore.runtime.bundle import MOUNTS
from longshore.runtime.messages import PlainRoot
from longshore.runtime.program import set_label
from longshore.runtime.rootfs import write_proc, write_sysctls

pytestmark = needs_root

WITHOUT_DEV = tuple(mount for mount in MOUNTS if not mount.destination.startswith("/dev"))
PTS = Mount("/dev/pts", "devpts", "devpts", ("newinstance", "ptmxmode=0666", "mode=0620"))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    yield from pytest_box(tmp_path_factory)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A root that somebody else writes to, with a /dev of its own: no tmpfs comes over it."""
    root = make_rootfs(tmp_path / "shared")
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (root / "dev/pts").mkdir()
    (root / "etc/target").write_text("untouched\n")
    return root


@pytest.mark.parametrize("as_volume", [False, True])
def test_attack_03_a_null_device_that_is_swapped_while_it_masks(
    box: Box, shared: Path, as_volume: bool
) -> None:
    """Fails when Masks binds /dev/null by name, or without looking at what it has opened: /proc/keys is then the
    link's target."""
    (shared / "dev/other").symlink_to("/etc/target")
    mounts = (*WITHOUT_DEV, bind(shared / "dev", "/dev")) if as_volume else WITHOUT_DEV
    look = "stat -c '%F %t:%T' /proc/keys /proc/timer_list"
    seen: set[str] = set()
    with flipping(str(shared / "dev/null"), str(shared / "dev/other")):
        for _ in tries(lambda: len(seen) > 1):
            try:
                root = PlainRoot(str(shared))
                masked = ("/proc/keys", "/proc/timer_list")
                seen.add(box.script(look, root=root, mounts=mounts, masked_paths=masked).out)
            except StartFailed as error:
                assert "null" in str(error), error
                seen.add("refused")
    assert seen == {"refused", "character special file 1:3\n" * 2}


def test_attack_04_a_console_that_is_swapped_while_it_is_bound(box: Box, shared: Path) -> None:
    """Fails when open_console binds the terminal by name: it then covers the link's target."""
    (shared / "dev/console").write_text("")
    (shared / "dev/other").symlink_to("/etc/target")
    look = "cat /etc/target; grep ' devpts ' /proc/self/mountinfo | cut -d ' ' -f 5"
    seen: set[str] = set()
    with flipping(str(shared / "dev/console"), str(shared / "dev/other")):
        for _ in tries(lambda: len(seen) > 1):
            try:
                root = PlainRoot(str(shared))
                result = box.script(look, root=root, mounts=(*WITHOUT_DEV, PTS), terminal=True)
            except StartFailed as error:
                assert "console" in str(error), error
                seen.add("refused")
                continue
            text, *places = result.out.split()
            assert text == "untouched"
            # The neighbour goes on renaming: the mount point may be called "other" by the time we look.
            assert places[0] == "/dev/pts" and len(places) == 2
            assert places[1].startswith(("/dev/console", "/dev/other"))
            seen.add("bound")
    assert seen == {"refused", "bound"}


@pytest.mark.parametrize("write", ["label", "sysctl", "link"])
def test_attack_05_only_procfs_is_written_to(tmp_path: Path, write: str) -> None:
    """A folder in procfs's place, with files of the right names. Fails when write_proc does not ask statfs(2), or
    follows links: the profile goes into the fake and the program runs unconfined."""
    names = ("thread-self/attr/apparmor/exec", "thread-self/attr/exec", "sys/net/ipv4/ip_forward")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("fake")
    (tmp_path / "link").symlink_to("/proc/sys/kernel/domainname")
    before = Path("/proc/sys/kernel/domainname").read_text()
    fd = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises((StartFailed, OSError), match=r"not on procfs|symbolic|cross-device"):
            if write == "label":
                set_label(fd, "longshore-default")
            elif write == "sysctl":
                write_sysctls(fd, (("net.ipv4.ip_forward", "1"),))
            else:
                write_proc(fd, "link", "evil")
    finally:
        os.close(fd)
        after = Path("/proc/sys/kernel/domainname").read_text()
        Path("/proc/sys/kernel/domainname").write_text(before)
    assert all((tmp_path / name).read_text() == "fake" for name in names)
    assert after == before


def test_attack_05_a_tmpfs_over_proc_takes_no_label(box: Box, shared: Path) -> None:
    """CVE-2025-52881: settings are written while the container's /proc is a tmpfs with links to the dangerous
    files. Fails when settings are written below the container's own /proc."""
    fake = shared / "fakeproc/sys/net/ipv4"
    fake.mkdir(parents=True)
    (fake / "ip_forward").symlink_to("/etc/target")
    mounts = (
        *(mount for mount in MOUNTS if mount.destination != "/proc"),
        bind(shared / "fakeproc", "/proc"),
    )
    box.run(
        "true",
        root=PlainRoot(str(shared)),
        mounts=mounts,
        sysctl={"net.ipv4.ip_forward": "1"},
        masked_paths=(),
        readonly_paths=(),
    )
    assert (shared / "etc/target").read_text() == "untouched\n"


def test_attack_05_a_proc_that_is_swapped_while_it_is_hidden(box: Box, shared: Path) -> None:
    """CVE-2023-27561: the neighbour swaps /proc for a link, so that the procfs gets mounted, and what it hides is
    looked up, at different places. Fails when either follows the link: a procfs without masks."""
    (shared / "tmp/p").mkdir()
    (shared / "other").symlink_to("/tmp/p")
    look = (
        "for at in /proc /tmp/p /other /proc /tmp/p /other; do [ -e $at/keys ] && stat -c '%F' $at/keys; done"
    )
    seen: set[str] = set()
    with flipping(str(shared / "proc"), str(shared / "other")):
        for _ in tries(lambda: len(seen) > 1):
            try:
                result = box.script(
                    look, root=PlainRoot(str(shared)), masked_paths=("/proc/keys",), readonly_paths=()
                )
            except StartFailed as error:
                assert "ordinary directory" in str(error), error
                seen.add("refused")
                continue
            seen.update(result.out.splitlines())
    assert seen == {"refused", "character special file"}
