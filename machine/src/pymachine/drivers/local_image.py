"""The image of local machines: what a small server has when it is handed over. Pure values."""

import hashlib
import io
import tarfile

IMAGE = "longshore-machine:debian-12"
BASE = "debian:bookworm"
RECIPE_LABEL = "pymachine.recipe"

_INIT = "usr/local/sbin/pymachine-init"

DOCKERFILE = f"""\
FROM {BASE}
RUN printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d \\
 && chmod 755 /usr/sbin/policy-rc.d \\
 && apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
      openssh-server python3 ca-certificates procps iproute2 \\
 && apt-get clean \\
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /etc/ssh/ssh_host_* /usr/sbin/policy-rc.d
COPY pymachine.conf /etc/ssh/sshd_config.d/pymachine.conf
COPY pymachine-init /{_INIT}
RUN chmod 755 /{_INIT} && chmod 644 /etc/ssh/sshd_config.d/pymachine.conf
CMD ["/{_INIT}"]
"""

# The drop-in is read before Debian's own values, and the first value counts (sshd_config(5)).
SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
X11Forwarding no
PrintMotd no
MaxStartups 100
MaxSessions 100
"""

# The engine is started in the background: login must not wait for it. /run is a fresh tmpfs at each start.
INIT = """\
#!/bin/sh
mkdir -p -m 755 /run/sshd /run/lock
if [ -x /etc/init.d/longshored ]; then
    /etc/init.d/longshored start </dev/null &
fi
exec /usr/sbin/sshd -D -e
"""


def recipe() -> str:
    """A digest of all that goes into the image; another recipe means another image."""
    return hashlib.sha256("\0".join((DOCKERFILE, SSHD_CONFIG, INIT)).encode()).hexdigest()[:16]


def build_context() -> bytes:
    """The tar archive for POST /build; the same bytes every time, so that the build cache works."""
    return archive(
        {
            # The label comes last, so that the layers before it stay cached.
            "Dockerfile": (f"{DOCKERFILE}LABEL {RECIPE_LABEL}={recipe()}\n".encode(), 0o644),
            "pymachine.conf": (SSHD_CONFIG.encode(), 0o644),
            "pymachine-init": (INIT.encode(), 0o755),
        }
    )


def login_archive(host_key: bytes, host_key_public: str, authorized: str) -> bytes:
    """The tar archive with a machine's identity, for / of a container that has not started yet."""
    return archive(
        {
            "etc/ssh/ssh_host_ed25519_key": (host_key, 0o600),
            "etc/ssh/ssh_host_ed25519_key.pub": (host_key_public.encode() + b"\n", 0o644),
            "root/.ssh/": (b"", 0o700),
            "root/.ssh/authorized_keys": (authorized.encode() + b"\n", 0o600),
        }
    )


def archive(files: dict[str, tuple[bytes, int]]) -> bytes:
    """A tar of files (and folders, whose names end with a slash), all root's, without dates."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mode = mode
            entry.size = len(data)
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
