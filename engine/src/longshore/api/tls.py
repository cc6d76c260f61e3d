"""TLS under a connection, with half-close.

asyncio's own TLS transport shuts the whole connection down as soon as the peer says close_notify, so the
output of `docker -H tcp://… exec -i` would be lost after the end of its input. TLS 1.3 allows one direction
to end alone (RFC 8446, section 6.1); this layer passes that on as `eof_received` and keeps our half open.
"""

import asyncio
import logging
import ssl
from typing import Any, cast

log = logging.getLogger("longshore.api")

HANDSHAKE_SECONDS = 20.0
_PIECE = 1 << 18


class TlsTransport(asyncio.Transport):
    """What the upper protocol holds as its transport."""

    def __init__(self, layer: "TlsProtocol") -> None:
        super().__init__()
        self._layer = layer

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        self._layer.send(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._layer.send_eof()

    def close(self) -> None:
        self._layer.close()

    def abort(self) -> None:
        self._layer.raw.abort()

    def is_closing(self) -> bool:
        return self._layer.raw.is_closing()

    def pause_reading(self) -> None:
        self._layer.raw.pause_reading()

    def resume_reading(self) -> None:
        self._layer.raw.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._layer.raw.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._layer.tls
        return self._layer.raw.get_extra_info(name, default)


class TlsProtocol(asyncio.Protocol):
    """Speaks TLS to the raw transport below and plain bytes to `upper`."""

    def __init__(self, context: ssl.SSLContext, upper: asyncio.Protocol) -> None:
        self._upper = upper
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.raw: asyncio.Transport
        self._ready = self._eof = self._said_eof = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.raw = cast(asyncio.Transport, transport)
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self.raw.abort)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            if self._ready or self._handshake():
                self._receive()
        except ssl.SSLError as error:
            peer = self.raw.get_extra_info("peername")
            log.info("TLS with %s failed: %s", peer, error.reason or error)
            self._flush()  # the alert tells the peer why
            self.raw.close()

    def eof_received(self) -> bool:
        if not self._ready:
            return False
        self._end_of_input()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._ready:
            self._upper.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._ready:
            self._upper.pause_writing()

    def resume_writing(self) -> None:
        if self._ready:
            self._upper.resume_writing()

    def _handshake(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        self._flush()
        self._ready = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._upper.connection_made(TlsTransport(self))
        return True

    def _receive(self) -> None:
        while not self._eof:
            try:
                data = self.tls.read(_PIECE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            if data:
                self._upper.data_received(data)
            else:
                self._end_of_input()
        self._flush()  # key updates and the like

    def _end_of_input(self) -> None:
        if not self._eof:
            self._eof = True
            self._upper.eof_received()

    def send(self, data: bytes) -> None:
        if self._said_eof or self.raw.is_closing():
            return
        view = memoryview(data)
        while view:  # a memory buffer never wants more room
            view = view[self.tls.write(view) :]
        self._flush()

    def send_eof(self) -> None:
        if self._said_eof or self.raw.is_closing():
            return
        self._said_eof = True
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # our close_notify is written; theirs may come later or never
        self._flush()

    def close(self) -> None:
        self.send_eof()
        self.raw.close()

    def _flush(self) -> None:
        if (data := self._outgoing.read()) and not self.raw.is_closing():
            self.raw.write(data)


def server_context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer; a client without a certificate of `ca` is refused. Raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    return context


def certificate_names(certificate: str) -> "CertificateNames":
    with open(certificate) as file:
        text = file.read()
    end = "-----END CERTIFICATE-----"
    return CertificateNames(
        ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN") : text.index(end) + len(end)])
    )


class CertificateNames:
    """Answers whether a certificate is made out to a DNS name.

    The standard library decodes only the peer's certificate. A dNSName in the DER is the bytes 0x82, length,
    name (RFC 5280, section 4.2.1.6), so asking for those bytes is enough: this is a check beside TLS, not
    instead of it.
    """

    def __init__(self, der: bytes) -> None:
        self._der = der.lower()

    def __contains__(self, name: str) -> bool:
        name = name.lower()
        return any(self._has(each) for each in (name, "*." + name.partition(".")[2]))

    def _has(self, name: str) -> bool:
        raw = name.encode("ascii", "replace")
        return 0 < len(raw) < 128 and bytes((0x82, len(raw))) + raw in self._der
