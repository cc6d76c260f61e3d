"""The profile that containers get where the kernel has AppArmor: `longshore-default`, made and loaded by the daemon.

AppArmor is a second lock: namespaces, capabilities, seccomp and masked paths refuse the same without it. The words are
explained in apparmor.d(5); a deny wins over everything that is allowed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from longshore.errors import Unavailable, Unsupported

PROFILE = "longshore-default"
ENABLED = "/sys/module/apparmor/parameters/enabled"
PARSER = "apparmor_parser"
_LOADED = "/sys/kernel/security/apparmor/profiles"
_SECONDS = 30.0

_TEXT = """\
#include <tunables/global>

profile {name} flags=(attach_disconnected,mediate_deleted) {{
  #include <abstractions/base>

  network,
  capability,
  file,
  umount,

  # the host's processes may signal the container's, which may signal and trace each other
  signal (receive) peer=unconfined,
  signal (receive) peer={daemon},
  signal (send,receive) peer={name},
  ptrace peer={name},

  deny mount,

  # what belongs to the whole machine: files directly in /proc, its drivers, its memory
  deny @{{PROC}}/[a-z]* w,
  deny @{{PROC}}/{{acpi,asound,bus,driver,dynamic_debug,fs,irq,scsi,tty}}/** w,
  deny @{{PROC}}/{{kcore,sysrq-trigger}} rklx,

  # settings, but for those that have a namespace: net, fs.mqueue, kernel.{{domainname,hostname,msg*,sem,shm*}}
  deny @{{PROC}}/sys/{{abi,crypto,debug,dev,sunrpc,user,vm}}/** w,
  deny @{{PROC}}/sys/fs/[^m]** w,
  deny @{{PROC}}/sys/kernel/{{[^dhms],d[^o],h[^o],m[^s],s[^eh]}}** w,

  # of /sys only cgroups, which the mount says more about
  deny /sys/{{[^f],f[^s]}}** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/{{firmware,kernel/security,devices/virtual/powercap}}/** r,
}}
"""


def enabled() -> bool:
    """Whether this kernel runs AppArmor."""
    try:
        return Path(ENABLED).read_text().strip() == "Y"
    except OSError:
        return False


def profile_text(daemon: str) -> str:
    """The profile's source; `daemon`: the profile that the daemon itself runs in ("unconfined" mostly). Pure."""
    return _TEXT.format(name=PROFILE, daemon=daemon)


def parse_label(text: str) -> str:
    """ "name (enforce)" of /proc/<pid>/attr/current. Pure."""
    return text.strip().rstrip("\0").rsplit(" (", 1)[0] or "unconfined"


def loaded(name: str) -> bool:
    """Whether the kernel knows the profile."""
    try:
        lines = Path(_LOADED).read_text().splitlines()
    except OSError:
        return False
    return any(parse_label(line) == name for line in lines)


def load_default() -> None:
    """Load the profile into the kernel, in place of an older one. Twice is fine.

    Raises Unsupported without apparmor_parser: only that knows the binary form of this kernel; Unavailable when it
    fails.
    """
    parser = shutil.which(PARSER, path="/sbin:/usr/sbin:/bin:/usr/bin")
    if parser is None:
        raise Unsupported(
            f"AppArmor is enabled, but there is no {PARSER}",
            hint="install the package apparmor; restart longshored",
        )
    text = profile_text(parse_label(_own_label()))
    try:
        done = subprocess.run(
            [parser, "--replace", "--skip-cache", "--quiet"],
            input=text, capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{PARSER} does not work: {error}") from error
    if done.returncode != 0:
        raise Unavailable(
            f"{PARSER} refuses the profile {PROFILE}", detail=(done.stderr or done.stdout).strip()
        )


def _own_label() -> str:
    try:
        return Path("/proc/self/attr/current").read_text()
    except OSError:
        return "unconfined"
