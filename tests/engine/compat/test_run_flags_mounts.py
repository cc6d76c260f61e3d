"""`docker run`, flag by flag: --volume, --mount with all its types and options, --volumes-from, --tmpfs."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="module")
def clean(daemon: Any) -> Iterator[None]:
    yield
    daemon.remove_containers()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file and another filesystem mounted below it; shared, so that propagation has a peer group."""
    (tmp_path / "below").mkdir()
    (tmp_path / "file").write_text("outside\n")
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    subprocess.run(["mount", "--make-shared", tmp_path], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "flags", tmp_path / "below"], check=True)
    (tmp_path / "below/deep").write_text("deep\n")
    yield tmp_path
    subprocess.run(["umount", "--recursive", tmp_path], check=True)


def run(daemon: Any, *flags: str, script: str, check: bool = True) -> Any:
    return daemon.docker("run", "--rm", *flags, "busybox", "sh", "-c", script, check=check)


BINDS = [
    ("-v {tree}:/m", "cat /m/file /m/below/deep; echo new >/m/made && cat /m/made", r"^outside\ndeep\nnew$"),
    ("-v {tree}:/m:ro", "touch /m/x 2>&1 || true", "Read-only file system"),
    ("-v {tree}:/m:rslave", "grep ' /m ' /proc/self/mountinfo", r" /m rw\S* master:\d+"),
    ("-v {tree}:/m:rshared", "grep ' /m ' /proc/self/mountinfo", r" /m rw\S* shared:\d+"),
    ("-v {tree}/file:/etc/file", "cat /etc/file", "^outside$"),
    ("--mount type=bind,src={tree},dst=/m,readonly", "touch /m/x 2>&1 || true", "Read-only file system"),
    ("--mount type=bind,src={tree},dst=/m,bind-propagation=rslave", "grep ' /m ' /proc/self/mountinfo", r"master:\d+"),
    ("--mount type=bind,src={tree},dst=/m,bind-propagation=private", "grep ' /m ' /proc/self/mountinfo", r" /m rw\S* - "),
    ("--mount type=bind,src={tree},dst=/m,bind-nonrecursive=true", "ls /m/below | wc -l", "^0$"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "script", "want"),
    [
        pytest.param(
            *row,
            id=row[0].replace("{tree}", ""),
            marks=pytest.mark.flag("--volume" if row[0][1] == "v" else "--mount"),
        )
        for row in BINDS
    ],
)
def test_binds(daemon: Any, tree: Path, args: str, script: str, want: str) -> None:
    done = run(daemon, *args.replace("{tree}", str(tree)).split(), script=script)
    assert re.search(want, done.out, re.MULTILINE), done


@pytest.mark.flag("--mount")
@pytest.mark.parametrize(
    ("options", "top", "below"),
    [
        ({}, False, False),
        ({"ReadOnlyNonRecursive": True}, False, True),
        ({"ReadOnlyForceRecursive": True, "Propagation": "rprivate"}, False, False),
    ],
)
def test_how_far_read_only_reaches(
    daemon: Any, tree: Path, options: dict[str, Any], top: bool, below: bool
) -> None:
    """bind-recursive=enabled|writable|readonly, by the API: older CLIs have no such words."""
    script = "touch /m/x && echo top; touch /m/below/x && echo below; :"
    mount = {"Type": "bind", "Source": str(tree), "Target": "/m", "ReadOnly": True, "BindOptions": options}
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"Mounts": [mount]}}
    status, made = daemon.request("POST", "/containers/create", body)
    assert status == 201, made
    assert daemon.request("POST", f"/containers/{made['Id']}/start")[0] == 204
    daemon.docker("wait", made["Id"])
    out = daemon.docker("logs", made["Id"]).out
    assert ("top" in out, "below" in out) == (top, below), out


@pytest.mark.flag("--mount")
def test_a_missing_bind_source_is_made_only_when_asked_for(daemon: Any, tmp_path: Path) -> None:
    refused = run(daemon, "--mount", f"type=bind,src={tmp_path}/no,dst=/m", script=":", check=False)
    assert "bind source path does not exist" in refused.err
    mount = {
        "Type": "bind",
        "Source": f"{tmp_path}/yes",
        "Target": "/m",
        "BindOptions": {"CreateMountpoint": True},
    }
    body = {"Image": "busybox", "HostConfig": {"Mounts": [mount]}}
    assert daemon.request("POST", "/containers/create", body)[0] == 201
    assert (tmp_path / "yes").is_dir()
    assert run(daemon, "-v", f"{tmp_path}/also:/m", script="echo x >/m/f").code == 0
    assert (tmp_path / "also/f").read_text() == "x\n"


@pytest.mark.flag("--mount", "--volume", "--volumes-from")
def test_volumes(daemon: Any) -> None:
    label = ("volume-label=a=b", "volume-driver=local")
    run(
        daemon,
        "--mount",
        ",".join(("type=volume,src=flagvol,dst=/v", *label)),
        script="mkdir -p /v/sub; echo s >/v/sub/f",
    )
    try:
        volume = daemon.request("GET", "/volumes/flagvol")[1]
        assert (volume["Labels"], volume["Driver"]) == ({"a": "b"}, "local")
        # Empty volumes take over what the image has there, unless told not to
        assert (
            int(run(daemon, "-v", "/bin2", "-v", "flagbin:/bin", script="ls /bin | wc -l; ls /bin2").out)
            > 100
        )
        nocopy = run(
            daemon,
            "--mount",
            "type=volume,dst=/etc/x,volume-nocopy",
            "-v",
            "v2:/root:nocopy",
            script="ls -A /root",
        )
        assert nocopy.out == ""
        mount = {"Type": "volume", "Source": "flagvol", "Target": "/m", "VolumeOptions": {"Subpath": "sub"}}
        body = {"Image": "busybox", "Cmd": ["cat", "/m/f"], "HostConfig": {"Mounts": [mount]}}
        made = daemon.request("POST", "/containers/create", body)[1]["Id"]
        daemon.docker("start", "-a", made)
        assert daemon.docker("logs", made).out == "s\n"
        daemon.docker("create", "--name", "flagfrom", "-v", "flagvol:/v", "-v", "/anonymous", "busybox")
        done = run(
            daemon,
            "--volumes-from",
            "flagfrom:ro",
            script="cat /v/sub/f; touch /v/x 2>&1; touch /anonymous/x 2>&1; :",
        )
        assert done.out.startswith("s\n")
        assert done.out.count("Read-only file system") == 2
    finally:
        daemon.remove_containers()
        daemon.docker("volume", "rm", "-f", "flagvol", "flagbin", "v2")


@pytest.mark.flag("--mount", "--tmpfs")
def test_tmpfs(daemon: Any) -> None:
    flags = ("--mount", "type=tmpfs,dst=/a,tmpfs-size=2m,tmpfs-mode=1700", "--tmpfs", "/b:uid=5,ro")
    done = run(daemon, *flags, script="grep -E ' /(a|b) ' /proc/self/mountinfo; stat -c %a /a; stat -c %u /b")
    assert re.search(r" /a rw,nosuid,nodev,noexec\S* .*size=2048k,mode=1700", done.out), done
    assert re.search(r" /b ro,nosuid,nodev,noexec", done.out), done
    assert done.out.endswith("1700\n5\n")


@pytest.mark.flag("--mount")
def test_an_image_as_a_mount(daemon: Any) -> None:
    """By the API: older CLIs have no such type."""
    for options, script in ((None, "ls /i/bin/sh"), ({"Subpath": "bin"}, "ls /i/sh")):
        mount = {
            "Type": "image",
            "Source": "busybox",
            "Target": "/i",
            **({"ImageOptions": options} if options else {}),
        }
        body = {
            "Image": "busybox",
            "Cmd": ["sh", "-c", f"{script}; touch /i/x 2>&1"],
            "HostConfig": {"Mounts": [mount]},
        }
        status, made = daemon.request("POST", "/containers/create", body)
        assert status == 201, made
        daemon.docker("start", "-a", made["Id"], check=False)
        out = daemon.docker("logs", made["Id"]).out
        assert out.startswith(script.removeprefix("ls ")), out
        assert "Read-only file system" in out


BAD = [
    ({"Type": "npipe", "Source": "x", "Target": "/x"}, "mount type unknown"),
    ({"Type": "cluster", "Source": "x", "Target": "/x"}, "mount type unknown"),
    ({"Type": "bind", "Source": "/tmp", "Target": "x"}, "mount path must be absolute"),
    ({"Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": {"NoCopy": True}}, "VolumeOptions"),
    (
        {"Type": "volume", "Source": "vol", "Target": "/x", "BindOptions": {"NonRecursive": True}},
        "BindOptions",
    ),
    (
        {
            "Type": "volume",
            "Source": "vol",
            "Target": "/x",
            "VolumeOptions": {"DriverConfig": {"Name": "nfs"}},
        },
        "nfs",
    ),
    ({"Type": "volume", "Source": "vol", "Target": "/x", "VolumeOptions": {"Subpath": "../y"}}, "subpath"),
    ({"Type": "tmpfs", "Source": "vol", "Target": "/x"}, "Source must not be specified"),
    ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": -1}}, "TmpfsOptions"),
    ({"Type": "image", "Source": "absent", "Target": "/x"}, "No such image"),
    (
        {"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": {"Propagation": "loud"}},
        "propagation mode: loud",
    ),
    ({"Type": "bind", "Source": "/tmp", "Target": "/x", "Consistency": "loud"}, "Consistency"),
]


@pytest.mark.parametrize(("mount", "words"), BAD, ids=lambda value: str(value)[:70])
def test_bad_mounts(daemon: Any, mount: dict[str, Any], words: str) -> None:
    body = {"Image": "busybox", "HostConfig": {"Mounts": [mount]}}
    status, reply = daemon.request("POST", "/containers/create", body)
    assert (status, words in reply["message"]) == (400, True), reply
