"""A real Debian in QEMU: systemd, pure cgroup v2, AppArmor, every capability. Built once, booted per session."""

import contextlib
import hashlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "build/vm"
SUITE = "bookworm"
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "udev", "openssh-server", "python3", "linux-image-cloud-amd64",
    "apparmor", "wireguard-tools", "ca-certificates", "procps", "iproute2", "busybox-static", "nftables", "iptables",
)  # fmt: skip
NETWORK = "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n"
BOOT_SECONDS = 240


def say(text: str) -> None:
    print(f"vm: {text}", file=sys.stderr, flush=True)


def run(*argv: str | Path) -> None:
    subprocess.run([str(word) for word in argv], check=True)


def build_image() -> Path:
    """The disk and the kernel in build/vm, made when this file changed. Returns the folder."""
    stamp = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    if (HOME / "stamp").exists() and (HOME / "stamp").read_text() == stamp:
        return HOME
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    for name in ("user", "host"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"longshore-{name}", "-f", HOME / name)
    tree = HOME / "tree"
    say(f"mmdebstrap {SUITE} with systemd and a kernel, about a minute")
    run(
        "mmdebstrap", "--variant=minbase", "--quiet", f"--include={','.join(PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", SUITE, tree,
    )  # fmt: skip
    configure(tree)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(newest(tree, name), HOME / name)
    say("mke2fs")
    disk = HOME / "disk.raw"
    with disk.open("wb") as stream:
        stream.truncate(6 << 30)
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, "-F", disk)
    shutil.rmtree(tree)
    (HOME / "stamp").write_text(stamp)
    return HOME


def newest(tree: Path, name: str) -> Path:
    """/vmlinuz is an absolute link, so the files are looked up in /boot."""
    return sorted((tree / "boot").glob(f"{name}-*"))[-1]


def configure(tree: Path) -> None:
    """Network by DHCP, our host key and our user key; nothing else differs from a plain Debian."""
    (tree / "etc/systemd/network/20-all.network").write_text(NETWORK)
    (tree / "etc/hostname").write_text("longshore-vm\n")
    (tree / "etc/fstab").write_text("/dev/vda / ext4 rw,relatime 0 1\n")
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n")
    enable_networkd(tree)
    for old in (tree / "etc/ssh").glob("ssh_host_*"):
        old.unlink()
    shutil.copy(HOME / "host", tree / "etc/ssh/ssh_host_ed25519_key")
    shutil.copy(HOME / "host.pub", tree / "etc/ssh/ssh_host_ed25519_key.pub")
    (tree / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(HOME / "user.pub", tree / "root/.ssh/authorized_keys")


def enable_networkd(tree: Path) -> None:
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Machine:
    """A booted machine. `ssh_port` and `app_port` (the guest's 8080) listen on 127.0.0.1."""

    process: subprocess.Popen[bytes]
    home: Path
    work: Path
    ssh_port: int
    app_port: int

    @property
    def known_hosts(self) -> Path:
        return self.work / "known_hosts"

    def ssh_options(self) -> list[str]:
        return [
            "-i", str(self.home / "user"), "-p", str(self.ssh_port), "-o", "IdentitiesOnly=yes",
            "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "StrictHostKeyChecking=yes",
            "-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR",
            "-o", f"ControlPath={self.work}/control", "-o", "ControlMaster=auto", "-o", "ControlPersist=60",
        ]  # fmt: skip

    def ssh(self, command: str, *, check: bool = True, timeout: float = 300) -> str:
        """Run a shell command as root; returns its standard output."""
        done = subprocess.run(
            ["ssh", *self.ssh_options(), "root@127.0.0.1", command],
            check=False, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def copy(self, local: Path, remote: str) -> None:
        with local.open("rb") as stream:
            subprocess.run(
                ["ssh", *self.ssh_options(), "root@127.0.0.1", f"cat > {remote}"], check=True, stdin=stream
            )

    def stop(self) -> None:
        subprocess.run(
            ["ssh", "-O", "exit", "-o", f"ControlPath={self.work}/control", "root@127.0.0.1"],
            check=False, capture_output=True,
        )  # fmt: skip
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def boot(work: Path, *disks: Path) -> Machine:
    """Boot from the image, with more disks, without changing any (-snapshot) and wait for a login."""
    home = build_image()
    ssh_port, app_port = free_port(), free_port()
    say("boot under TCG")
    console = (work / "console.log").open("wb")
    process = subprocess.Popen(
        [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048",
            "-kernel", str(home / "vmlinuz"), "-initrd", str(home / "initrd.img"),
            "-append", "root=/dev/vda rw console=ttyS0 quiet", "-nographic", "-no-reboot", "-snapshot",
            "-drive", f"file={home / 'disk.raw'},if=virtio,format=raw,cache=unsafe",
            *(word for disk in disks for word in ("-drive", f"file={disk},if=virtio,format=raw,cache=unsafe")),
            "-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{ssh_port}-:22,hostfwd=tcp:127.0.0.1:{app_port}-:8080",
            "-device", "virtio-net-pci,netdev=n", "-device", "virtio-rng-pci",
        ],
        stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
    )  # fmt: skip
    machine = Machine(process, home, work, ssh_port, app_port)
    key = (home / "host.pub").read_text().split()
    machine.known_hosts.write_text(f"[127.0.0.1]:{ssh_port} {key[0]} {key[1]}\n")
    started = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
            machine.ssh("true", timeout=30)
            break
        if process.poll() is not None or time.monotonic() - started > BOOT_SECONDS:
            process.kill()
            raise RuntimeError(
                "the machine does not boot:\n" + (work / "console.log").read_text(errors="replace")[-3000:]
            )
        time.sleep(0.5)
    say(f"login after {time.monotonic() - started:.0f} s")
    return machine
