"""The driver `syslog`: RFC 3164 and RFC 5424 messages to a local or remote receiver, by the words of Docker's driver.

A receiver that goes away is tried again, at most once a second and ever more rarely up to every half minute. What
could not be sent meanwhile is lost, as syslog is; a message of our own tells how much. A receiver that is there and
takes nothing for 30 seconds counts as gone.
"""

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from longshore.errors import InvalidArgument, Unavailable
from longshore.runtime.logdrivers import ATTRIBUTE_OPTIONS, Message, Sink, Wanted, check_known
from longshore.runtime.messages import LogSource

DEFAULT_TAG = "{{.ID}}"
_TLS = ("syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify")
OPTIONS = frozenset({"syslog-address", "syslog-facility", "syslog-format", *_TLS}) | ATTRIBUTE_OPTIONS
_NAMES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    None, None, None, None, "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
)  # fmt: skip
FACILITIES = {name: number for number, name in enumerate(_NAMES) if name}  # RFC 5424, table 1
_ERROR, _WARNING, _INFO = 3, 4, 6  # severities, RFC 5424, table 2
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")

SECONDS = 30.0
"""How long a receiver may take nothing, or a connection may take to be made at the start of a container: a tenth."""

Address = tuple[str, str, int]  # transport, host or path, port


def check(options: Mapping[str, str]) -> None:
    check_known(options, OPTIONS, "syslog")
    parse_address(options.get("syslog-address", ""))
    parse_facility(options.get("syslog-facility", ""))
    formatter(options.get("syslog-format", ""))


def parse_address(text: str) -> Address:
    """Empty: the machine's own syslog. Raises InvalidArgument."""
    if not text:
        return "", "", 0
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in ("tcp", "tcp+tls", "udp", "unix", "unixgram"):
        raise InvalidArgument(f"syslog-address should be in form proto://address, got {text}")
    if scheme.startswith("unix"):
        path = text.partition("://")[2]
        if not Path(path).exists():
            raise InvalidArgument(f"stat {path}: no such file or directory")
        return scheme, path, 0
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as cause:
        raise InvalidArgument(f"invalid syslog-address {text}", detail=str(cause)) from cause
    return scheme, host or "localhost", 514 if port is None else port


def parse_facility(text: str) -> int:
    """Raises InvalidArgument."""
    if not text:
        return FACILITIES["daemon"]
    if text in FACILITIES:
        return FACILITIES[text]
    if text.isdigit() and int(text) <= 23:
        return int(text)
    raise InvalidArgument("invalid syslog facility")


Formatter = Callable[[int, float, str, str, int, str], str]


def _stamp(seconds: float) -> str:
    """RFC 3164, 4.1.2: local time, a blank for a leading zero of the day."""
    when = time.localtime(seconds)
    return f"{_MONTHS[when.tm_mon - 1]} {when.tm_mday:2} {when.tm_hour:02}:{when.tm_min:02}:{when.tm_sec:02}"


def _zoned(seconds: float, fraction: str = "") -> str:
    when = time.localtime(seconds)
    offset = when.tm_gmtoff
    sign, minutes = "-" if offset < 0 else "+", abs(offset) // 60
    zone = f"{sign}{minutes // 60:02}:{minutes % 60:02}" if offset else "Z"
    return time.strftime("%Y-%m-%dT%H:%M:%S", when) + fraction + zone


def _unix(priority: int, seconds: float, host: str, tag: str, pid: int, text: str) -> str:
    return f"<{priority}>{_stamp(seconds)} {tag}[{pid}]: {text}"


def _rfc3164(priority: int, seconds: float, host: str, tag: str, pid: int, text: str) -> str:
    return f"<{priority}>{_stamp(seconds)} {host} {tag}[{pid}]: {text}"


def _rfc5424(priority: int, seconds: float, host: str, tag: str, pid: int, text: str) -> str:
    return f"<{priority}>1 {_zoned(seconds)} {host} {tag} {pid} {tag} - {text}"


def _rfc5424micro(priority: int, seconds: float, host: str, tag: str, pid: int, text: str) -> str:
    stamp = _zoned(seconds, f".{int(seconds % 1 * 1_000_000):06}")
    return f"<{priority}>1 {stamp} {host} {tag} {pid} {tag} - {text}"


_FORMATS: dict[str, Formatter] = {
    "": _unix,
    "rfc3164": _rfc3164,
    "rfc5424": _rfc5424,
    "rfc5424micro": _rfc5424micro,
}


def formatter(name: str) -> Formatter:
    """Raises InvalidArgument."""
    if name not in _FORMATS:
        raise InvalidArgument(
            "Invalid syslog format", detail=repr(name), hint="rfc3164, rfc5424, rfc5424micro"
        )
    return _FORMATS[name]


def read(source: LogSource, wanted: Wanted) -> None:
    return None


def open_sink(source: LogSource, options: Mapping[str, str]) -> Sink:
    """Connects at once. Raises Unavailable or OSError."""
    sink = SyslogSink(source, options)
    sink.connect()
    return sink


class SyslogSink:
    def __init__(self, source: LogSource, options: Mapping[str, str]) -> None:
        self._address = parse_address(options.get("syslog-address", ""))
        self._options = options
        self._facility = parse_facility(options.get("syslog-facility", ""))
        self._format = formatter(options.get("syslog-format", ""))
        # RFC 5425, 4.3: on TLS, messages of the new kind carry their length
        self._counted = self._address[0] == "tcp+tls" and options.get("syslog-format", "").startswith(
            "rfc5424"
        )
        self._tag = source.tag
        self._host = socket.gethostname()
        self._socket: socket.socket | None = None
        self._stream = False
        self._lost = 0
        self._patience = 0.0
        self._next_try = 0.0

    def connect(self) -> None:
        """Raises OSError, Unavailable."""
        scheme, host, port = self._address
        self._stream = scheme in ("tcp", "tcp+tls", "unix")
        if scheme in ("unix", "unixgram"):
            self._socket = _unix_socket(host, stream=self._stream)
        elif not scheme:
            self._socket = self._local()
        elif scheme == "udp":
            family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.connect(target)
        else:
            self._socket = socket.create_connection((host, port), timeout=SECONDS / 10)
            if scheme == "tcp+tls":
                self._socket = self._secure(self._socket, host)
        self._socket.settimeout(SECONDS)

    def _local(self) -> socket.socket:
        for path in _LOCAL:
            for stream in (False, True):
                with contextlib.suppress(OSError):
                    found = _unix_socket(path, stream=stream)
                    self._stream = stream
                    return found
        raise Unavailable("Unix syslog delivery error", detail=f"nobody listens on {', '.join(_LOCAL)}")

    def _secure(self, plain: socket.socket, host: str) -> socket.socket:
        import ssl  # five megabytes that only TLS pays for

        options = self._options
        context = ssl.create_default_context(cafile=options.get("syslog-tls-ca-cert") or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if "syslog-tls-skip-verify" in options:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate := options.get("syslog-tls-cert"):
            context.load_cert_chain(certificate, options.get("syslog-tls-key") or None)
        try:
            return context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise

    def write(self, messages: list[Message]) -> None:
        lines = [self._line(message) for message in messages]
        if not self._ready():
            self._lost += len(lines)
            return
        before = self._lost
        if before:
            told = f"{before} messages before this one were lost: the receiver was gone"
            lines.insert(0, self._encode(_WARNING, time.time(), told))
        sent = self._send(lines)
        if sent < len(lines) and self._reconnect():
            sent += self._send(lines[sent:])
        self._lost = len(lines) - sent + (before - 1 if before and not sent else 0)

    def close(self) -> None:
        self._drop()

    def _line(self, message: Message) -> bytes:
        severity = _ERROR if message.stream == "stderr" else _INFO
        return self._encode(severity, message.time / 1e9, message.data.decode(errors="replace"))

    def _encode(self, severity: int, seconds: float, text: str) -> bytes:
        priority = self._facility << 3 | severity
        line = self._format(priority, seconds, self._host, self._tag, os.getpid(), text).encode() + b"\n"
        return b"%d %s" % (len(line), line) if self._counted else line

    def _ready(self) -> bool:
        if self._socket is None:
            return self._reconnect()
        if self._stream and self._hung_up(self._socket):
            self._drop()
            return self._reconnect()
        return True

    @staticmethod
    def _hung_up(connection: socket.socket) -> bool:
        """A receiver says nothing, so what can be read is the end: without this the first message would be lost."""
        waiting = select.poll()
        waiting.register(connection, select.POLLIN)
        if not waiting.poll(0):
            return False
        connection.settimeout(0)
        try:
            return not connection.recv(4096)
        except OSError as error:
            # TLS has words of its own to read (session tickets) and then wants more; its module may not be imported
            return type(error).__name__ != "SSLWantReadError"
        finally:
            connection.settimeout(SECONDS)

    def _reconnect(self) -> bool:
        if time.monotonic() < self._next_try:
            return False
        self._drop()
        try:
            self.connect()
        except (OSError, Unavailable):
            self._patience = min(max(1.0, self._patience * 2), SECONDS)
            self._next_try = time.monotonic() + self._patience
            return False
        self._patience = self._next_try = 0.0
        return True

    def _drop(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _send(self, lines: list[bytes]) -> int:
        """How many whole lines went out. The connection is dropped at the first that did not."""
        assert self._socket is not None
        if self._stream:
            return self._send_stream(self._socket, lines)
        for number, line in enumerate(lines):
            try:
                self._socket.send(line)
            except OSError as error:
                if (
                    error.errno == errno.EMSGSIZE
                ):  # longer than a datagram may be; half of it is better than none
                    with contextlib.suppress(OSError):
                        self._socket.send(line[:1024])
                    continue
                self._drop()
                return number
        return len(lines)

    def _send_stream(self, connection: socket.socket, lines: list[bytes]) -> int:
        data, position = b"".join(lines), 0
        try:
            while position < len(data):
                position += connection.send(data[position : position + (1 << 16)])
        except OSError:  # a timeout is one too: nothing was taken for so long
            self._drop()
            whole = 0
            for line in lines:
                position -= len(line)
                if position < 0:
                    break
                whole += 1
            return whole
        return len(lines)


def _unix_socket(path: str, *, stream: bool) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
