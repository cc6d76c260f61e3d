"""All flags that describe a container, for `longshore run` and `create`: docker's, without those for Windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from longshore.cli import completers
from longshore.cli.flags import flag, many, number, text, words

_POLICIES = ("no", "always", "unless-stopped", "on-failure")

_FLAGS: tuple[Callable[[Any], Any], ...] = (
    many("--add-host", help="Name and address for /etc/hosts, name:ip."),
    many("--annotation", help="NAME=VALUE for the OCI runtime.", metavar="map"),
    many("-a", "--attach", help="Attach to STDIN, STDOUT or STDERR only."),
    number("--blkio-weight", help="Share of block IO, 10 to 1000; 0 is none.", default=0),
    many("--blkio-weight-device", help="Such a share for one device, path:weight."),
    many("--cap-add", help="Capability to add, or ALL."),
    many("--cap-drop", help="Capability to take away, or ALL."),
    text("--cgroup-parent", help="Cgroup to put the container's below."),
    text("--cgroupns", help="Cgroup namespace: host or private."),
    text("--cidfile", help="File to write the id to; must not exist."),
    number("--cpu-period", help="Period of the CPU quota in microseconds.", default=0),
    number("--cpu-quota", help="Microseconds of CPU in every period.", default=0),
    number("--cpu-rt-period", help="Real-time period in microseconds.", default=0),
    number("--cpu-rt-runtime", help="Real-time runtime in microseconds.", default=0),
    number("-c", "--cpu-shares", help="Relative weight of CPU time.", default=0),
    text("--cpus", help="Number of CPUs, such as 1.5.", metavar="decimal"),
    text("--cpuset-cpus", help="CPUs to run on, such as 0-3 or 0,1."),
    text("--cpuset-mems", help="Memory nodes to use, such as 0-3 or 0,1."),
    many("--device", help="Device of the host: path[:path inside[:rwm]], or a CDI name."),
    many("--device-cgroup-rule", help="Rule of allowed devices, such as c 42:* rmw."),
    many("--device-read-bps", help="Bytes per second that may be read, path:rate."),
    many("--device-read-iops", help="Reads per second, path:rate."),
    many("--device-write-bps", help="Bytes per second that may be written, path:rate."),
    many("--device-write-iops", help="Writes per second, path:rate."),
    flag("--disable-content-trust", help="Has no meaning here: signatures are not looked at.", default=True),
    many("--dns", help="DNS server."),
    many("--dns-option", help="Option for resolv.conf."),
    many("--dns-search", help="Domain to search names in."),
    text("--domainname", help="NIS domain name."),
    text("--entrypoint", help="Program to run in the place of the image's entry point.", default=None),
    many("-e", "--env", help="NAME=VALUE, or the NAME of a variable of ours."),
    many("--env-file", help="File of such lines."),
    many("--expose", help="Port or range that the program listens on."),
    text("--gpus", help="GPUs: all, a number, or device=….", metavar="gpu-request"),
    many("--group-add", help="Group to join beside the user's own."),
    text("--health-cmd", help="Command that tells whether the container is healthy."),
    text("--health-interval", help="Time between two checks.", metavar="duration"),
    number("--health-retries", help="Failures in a row that make it unhealthy.", default=0),
    text("--health-start-interval", help="Time between two checks while it starts.", metavar="duration"),
    text("--health-start-period", help="Time to start in; failures do not count.", metavar="duration"),
    text("--health-timeout", help="Time that one check may take.", metavar="duration"),
    text("-h", "--hostname", help="Host name."),
    flag("--init", help="Run an init that passes signals on and reaps processes."),
    flag("-i", "--interactive", help="Keep standard input open, attached or not."),
    text("--ip", help="IPv4 address."),
    text("--ip6", help="IPv6 address."),
    text("--ipc", help="IPC namespace: private, shareable, none, host or container:NAME."),
    text("--kernel-memory", help="Has no meaning any more: kernels have dropped that limit.", metavar="bytes"),
    many("-l", "--label", help="NAME=VALUE to find it by."),
    many("--label-file", help="File of such lines."),
    many("--link", help="Container to know under another name, name:alias.", complete=completers.containers),
    many("--link-local-ip", help="Link-local address."),
    text("--log-driver", help="Driver that keeps the output."),
    many("--log-opt", help="NAME=VALUE for the log driver."),
    text("--mac-address", help="MAC address."),
    text("-m", "--memory", help="Limit of memory, such as 512m.", metavar="bytes"),
    text("--memory-reservation", help="Memory to fall back to when it gets scarce.", metavar="bytes"),
    text("--memory-swap", help="Limit of memory and swap together; -1 is none.", metavar="bytes"),
    number("--memory-swappiness", help="How gladly to swap, 0 to 100; -1 as the host.", default=-1),
    many("--mount", help="type=…,source=…,target=… and more.", metavar="mount"),
    text("--name", help="Name of the container."),
    many("--network", help="Network to connect to; may have ,alias=… and ,ip=….", metavar="network", complete=completers.networks),
    many("--network-alias", help="Another name in the network."),
    flag("--no-healthcheck", help="Not even the image's check."),
    flag("--oom-kill-disable", help="Do not kill for memory (cgroup v1)."),
    number("--oom-score-adj", help="How gladly to kill for memory, -1000 to 1000.", default=0),
    text("--pid", help="PID namespace: host or container:NAME."),
    number("--pids-limit", help="Number of processes; -1 is any.", default=0),
    text("--platform", help="os/arch[/variant] of the image."),
    flag("--privileged", help="With all capabilities and devices."),
    many("-p", "--publish", help="Publish a port: [ip:][host:]container[/protocol]."),
    flag("-P", "--publish-all", help="Publish all exposed ports on free ones."),
    text("--pull", help="When to pull the image: always, missing or never.", default="missing", complete=words("always", "missing", "never")),
    flag("-q", "--quiet", help="No progress of the pull."),
    flag("--read-only", help="Root filesystem read-only."),
    text("--restart", help="When to start again: no, always, unless-stopped, on-failure[:max].", default="no", complete=words(*_POLICIES)),
    flag("--rm", help="Remove it and its anonymous volumes when it ends."),
    text("--runtime", help="Runtime that makes the container."),
    many("--security-opt", help="seccomp=…, apparmor=…, no-new-privileges and so on."),
    text("--shm-size", help="Size of /dev/shm.", metavar="bytes"),
    text("--stop-signal", help="Signal that asks it to end."),
    number("--stop-timeout", help="Seconds until it is killed."),
    many("--storage-opt", help="NAME=VALUE for the storage driver."),
    many("--sysctl", help="NAME=VALUE of the container's kernel.", metavar="map"),
    many("--tmpfs", help="Folder in memory, path[:options]."),
    flag("-t", "--tty", help="Give it a terminal."),
    many("--ulimit", help="NAME=SOFT[:HARD]", metavar="ulimit"),
    flag("--use-api-socket", help="Give it the engine's socket and our logins."),
    text("-u", "--user", help="Name or number, with :group if wanted."),
    text("--userns", help="User namespace: host."),
    text("--uts", help="UTS namespace: host."),
    many("-v", "--volume", help="Volume or folder: [source:]target[:options]."),
    text("--volume-driver", help="Driver of the volumes that are made."),
    many("--volumes-from", help="Container whose mounts to take, name[:ro].", complete=completers.containers),
    text("-w", "--workdir", help="Folder to run in."),
)  # fmt: skip

_RUN_ONLY: tuple[Callable[[Any], Any], ...] = (
    flag("-d", "--detach", help="Run in the background and print the id."),
    text("--detach-keys", help="Keys that leave the container running, ctrl-p,ctrl-q otherwise."),
    flag("--sig-proxy", help="Pass signals on to the process.", default=True),
)


def container_flags(*, runs: bool) -> Callable[[Any], Any]:
    """Gives a command all flags of `create`, and those of `run` if it `runs`."""

    def add_all(function: Any) -> Any:
        for add in reversed((*_RUN_ONLY, *_FLAGS) if runs else _FLAGS):
            function = add(function)
        return function

    return add_all
