"""What create refuses, with Docker's words."""

import signal
from typing import Any

import msgspec
import pytest

from longshore.core.model import CreateRequest, decode
from longshore.core.names import check_name, random_name
from longshore.core.validate import (
    check_create,
    check_labels,
    parse_capability,
    parse_signal,
    parse_size,
)
from longshore.errors import InvalidArgument, Unsupported


def request(host: dict[str, Any] | None = None, **config: Any) -> CreateRequest:
    return decode(msgspec.json.encode({"Image": "x", **config, "HostConfig": host or {}}), CreateRequest)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"Memory": 1 << 20}, "Minimum memory limit allowed is 6MB"),
        ({"MemorySwap": 1 << 30}, "You should always set the Memory limit"),
        ({"Memory": 64 << 20, "MemorySwap": 32 << 20}, "Minimum memoryswap limit should be larger"),
        ({"Memory": 64 << 20, "MemoryReservation": 65 << 20}, "memory reservation"),
        ({"NanoCpus": 3 * 10**9}, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
        (
            {"NanoCpus": 10**9, "CpuQuota": 5000},
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set.",
        ),
        ({"CpuPeriod": 10}, "CPU cfs period"),
        ({"CpuQuota": 10}, "CPU cfs quota"),
        ({"CpusetCpus": "0-9"}, "Requested CPUs are not available - requested 0-9, available: 0-1"),
        ({"CpusetCpus": "a"}, "Invalid value a for cpuset CpusetCpus"),
        ({"PidsLimit": -2}, "PidsLimit"),
        ({"CapAdd": ["SYS_FLY"]}, 'invalid capability: "SYS_FLY" in HostConfig.CapAdd'),
        ({"OomScoreAdj": 1001}, "range for oom score adj"),
        ({"ShmSize": -1}, "SHM size"),
        ({"RestartPolicy": {"Name": "sometimes"}}, "unknown policy 'sometimes'"),
        ({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 2}}, "maximum retry count"),
        ({"RestartPolicy": {"Name": "always"}, "AutoRemove": True}, "'AutoRemove'"),
        ({"Sysctls": {"kernel.core_pattern": "|/x"}}, "sysctl 'kernel.core_pattern' is not allowed"),
        ({"Sysctls": {"net.ipv4.ip_forward": "1\nkernel.x=1"}}, "invalid sysctl"),
        ({"Sysctls": {"net/../kernel/core_pattern": "x"}}, "invalid sysctl"),
        ({"Sysctls": {"kernel.shm_rmid_forced": "1\nx"}}, "invalid sysctl"),
        ({"Sysctls": {"kernel.shm_rmid_forced+kernel.core_pattern": "1"}}, "invalid sysctl"),
        ({"Sysctls": {"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/x"}}, "invalid sysctl"),
        ({"Sysctls": {"kernel.shm_rmid_forced": "1=1"}}, "HostConfig.Sysctls"),
        ({"Sysctls": {"net.core.somaxconn": "1"}, "NetworkMode": "host"}, "host network namespace"),
        ({"PidsLimit": 1 << 23}, "PidsLimit"),
        ({"CpuShares": 1 << 20}, "CpuShares"),
        ({"CpuRealtimeRuntime": 2_000_000}, "HostConfig.CpuRealtimeRuntime"),
        ({"CpusetMems": "3-1"}, "CpusetMems"),
        ({"Ulimits": [{"Name": "nofile", "Soft": -2, "Hard": -5}]}, "invalid ulimit nofile: -2:-5"),
        ({"Ulimits": [{"Name": "core"}, {"Name": "core"}]}, "given twice in HostConfig.Ulimits"),
        ({"DeviceRequests": [{"Count": -2}]}, "HostConfig.DeviceRequests"),
        ({"DeviceRequests": [{"Count": 1, "DeviceIDs": ["0"]}]}, "both Count and DeviceIDs"),
        ({"Devices": [{"PathOnHost": "/dev/x", "PathInContainer": "/a/../b"}]}, "HostConfig.Devices"),
        ({"DnsSearch": ["a\nnameserver 1.1.1.1"]}, "DnsSearch"),
        ({"DnsOptions": ["a b"]}, "DnsOptions"),
        ({"Dns": ["a"]}, "nameserver address: 'a' in HostConfig.Dns"),
        ({"Links": ["db:a b"]}, "bad format for links: db:a b"),
        ({"Links": ["db"], "NetworkMode": "host"}, "can't be used with links"),
        ({"ConsoleSize": [-1, 70000]}, "ConsoleSize"),
        ({"Annotations": {"": "x"}}, "Annotations"),
        ({"GroupAdd": ["a\nb"]}, "GroupAdd"),
        ({"SecurityOpt": ["systempaths=open"]}, "SecurityOpt"),
        ({"Cgroup": "container:x"}, "invalid Cgroup"),
        ({"KernelMemory": -1}, "KernelMemory"),
        ({"Ulimits": [{"Name": "files", "Soft": 1, "Hard": 1}]}, "invalid ulimit type: files"),
        ({"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}, "ulimit soft limit"),
        ({"PortBindings": {"80/tcp": [{"HostPort": "70000"}]}}, "invalid HostPort"),
        ({"PortBindings": {"80/icmp": [{"HostPort": "70"}]}}, "invalid port specification: '80/icmp'"),
        ({"PortBindings": {"80/tcp": [{"HostIp": "localhost"}]}}, "invalid HostIp"),
        ({"PortBindings": {"80/tcp": [{"HostIp": "::1"}]}}, "publishing on IPv6 addresses is not supported"),
        ({"NetworkMode": "container:x", "PortBindings": {"80/tcp": []}}, "conflicting options"),
        ({"IpcMode": "bogus"}, "invalid IpcMode"),
        ({"PidMode": "container:"}, "invalid PidMode"),
        ({"SecurityOpt": ["seccomp"]}, "invalid --security-opt"),
        ({"CgroupParent": "/../x"}, "invalid CgroupParent"),
        ({"Devices": [{"PathOnHost": "dev/x"}]}, "invalid device path"),
        ({"ExtraHosts": ["x"]}, "bad format for add-host"),
        ({"Runtime": "kata"}, "unknown or invalid runtime name: kata"),
        ({"StorageOpt": {"size": "1g"}}, "HostConfig.StorageOpt is not supported"),
        ({"BlkioWeight": 5}, "Range of blkio weight"),
        ({"BlkioWeightDevice": [{"Path": "/dev/x", "Weight": 5}]}, "invalid weight for device: /dev/x:5"),
        ({"BlkioDeviceReadBps": [{"Path": "/dev/x"}]}, "BlkioDeviceReadBps: /dev/x:0"),
        ({"BlkioDeviceWriteIOps": [{"Path": "x", "Rate": 1}]}, "BlkioDeviceWriteIOps: x:1"),
    ],
)
def test_host_config_is_refused(host: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_create(request(host), cpus=2)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"Hostname": "a b"}, "invalid hostname"),
        ({"Hostname": "h" * 65}, "invalid hostname"),
        ({"WorkingDir": "tmp"}, "the working directory 'tmp' is invalid"),
        ({"StopSignal": "SIGFOO"}, "Invalid signal: SIGFOO"),
        ({"Env": ["=x"]}, "invalid environment variable"),
        ({"Cmd": ["a\0b"]}, "invalid Cmd"),
        ({"ExposedPorts": {"0/tcp": {}}}, "invalid port specification"),
        ({"Healthcheck": {"Test": ["SHELL", "x"]}}, "Unknown healthcheck type"),
        ({"Healthcheck": {"Test": ["CMD", "x"], "Interval": 10}}, "cannot be less than 1ms"),
        ({"User": "a\nb"}, "invalid User"),
    ],
)
def test_config_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_create(request(**config), cpus=2)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        {"Memory": 64 << 20, "MemorySwap": -1, "NanoCpus": 2 * 10**9, "PidsLimit": -1},
        {"Sysctls": {"net.core.somaxconn": "1", "kernel.shmmax": "1"}, "CapAdd": ["cap_net_admin", "ALL"]},
        {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}},
        {"Ulimits": [{"Name": "core", "Soft": -1, "Hard": -1}], "CpusetCpus": "0,1", "CpuQuota": -1},
        {"SecurityOpt": ["no-new-privileges", "seccomp=unconfined", "label:disable"]},
        {"LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}},
    ],
)
def test_good_values_pass(host: dict[str, Any]) -> None:
    check_create(request(host), cpus=2)


def test_an_apparmor_profile_needs_apparmor() -> None:
    asked = request({"SecurityOpt": ["apparmor=mine"]}).host_config
    with pytest.raises(Unsupported, match="apparmor=mine needs AppArmor"):
        check_labels(asked, apparmor=False)
    check_labels(asked, apparmor=True)
    check_labels(request({"SecurityOpt": ["apparmor:unconfined"]}).host_config, apparmor=False)


@pytest.mark.parametrize(
    ("text", "number"),
    [("KILL", 9), ("SIGTERM", 15), ("sigint", 2), ("1", 1), ("64", 64), ("RTMIN+3", signal.SIGRTMIN + 3)],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-9", "RTMAX+1", "KILLER"])
def test_bad_signals(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_signal(text)


def test_capabilities_have_one_form() -> None:
    assert {parse_capability(text) for text in ("net_admin", "CAP_NET_ADMIN")} == {"CAP_NET_ADMIN"}
    assert parse_capability("all") == "ALL"


@pytest.mark.parametrize(("text", "size"), [("", 0), ("-1", 0), ("10", 10), ("10k", 10240), ("1MB", 1 << 20)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "x") == size


@pytest.mark.parametrize("name", ["", "a", "-ab", "a b", "a/b", "..", "é" * 3, "x" * 129])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid container name"):
        check_name(name)


def test_good_names() -> None:
    assert [check_name(name) for name in ("/web", "a1", "A_b.c-d")] == ["web", "a1", "A_b.c-d"]


def test_random_names_are_good_and_free() -> None:
    used: set[str] = set()
    for _ in range(500):
        name = random_name(used.__contains__)
        assert check_name(name) == name
        assert name not in used
        used.add(name)
