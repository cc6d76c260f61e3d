"""What is computed before the zygote forks, so that no container pays for it."""

import importlib

from longshore.errors import Unsupported
from longshore.kernel import capabilities, script
from longshore.runtime import seccomp_profile
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.cgroups import systemd_runs

# The Docker Engine's default set, also ours: its filter is the one that most containers need.
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
    "CAP_AUDIT_WRITE",
)  # fmt: skip


def prepare() -> None:
    """Fill the caches. Without libseccomp a container that wants a filter says so itself."""
    layout()
    if systemd_runs():
        importlib.import_module("longshore.runtime.systemd")
    capabilities.last_capability()
    script.prepare()
    try:
        seccomp_profile.default_program(capabilities.mask(DEFAULT_CAPABILITIES))
    except Unsupported:
        pass
