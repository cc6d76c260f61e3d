"""Where things are on a host.

/opt/longshore/<release>/lib    the engine and its dependencies, unpacked wheels
/opt/longshore/current          link to the release in use; `previous` to the one before
/etc/longshore/daemon.json      settings; tls/ beside it
"""

from pathlib import Path

PREFIX = Path("/opt/longshore")
ETC = Path("/etc/longshore")
LINKS = Path("/usr/local/bin")
UNIT = Path("/etc/systemd/system/longshored.service")
SYSV = Path("/etc/init.d/longshored")
SYSCTL = Path("/etc/sysctl.d/60-longshore.conf")
PIDFILE = Path("/run/longshored.pid")
LOG = Path("/var/log/longshored.log")
DEFAULT_SOCKET = "/run/longshore/longshore.sock"
TLS_FILES = ("ca.pem", "server-cert.pem", "server-key.pem")
COMMANDS = {
    "longshore": "longshore.cli.main",
    "longshored": "longshore.daemon.main",
    "longshore-oci": "longshore.runtime.oci_command",
    "longshore-setup": "longshore.daemon.install",
}
