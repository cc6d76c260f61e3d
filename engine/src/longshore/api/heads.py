"""Heads of requests and replies between h11 and our server; what h11 accepts and we do not is refused here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import h11

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Headers(Mapping[str, str]):
    """Header fields; names in any case, repeated fields joined by a comma (RFC 9110, section 5.3)."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            key = name.lower()
            self._values[key] = f"{self._values[key]}, {value}" if key in self._values else value

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True, slots=True)
class Head:
    method: str
    target: str
    headers: Headers
    upgrade: bool  # asked for in both headers that it takes
    bodyless: bool


def read_head(request: h11.Request) -> Head:
    """Raises h11.RemoteProtocolError for what h11 lets pass though two readers may take it differently."""
    headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers])
    if request.http_version not in (b"1.0", b"1.1"):
        raise h11.RemoteProtocolError("only HTTP/1.0 and HTTP/1.1 are spoken", error_status_hint=505)
    if "transfer-encoding" in headers:
        # h11 goes by the coding, as RFC 9112 (section 6.3) lets it; it also says that this smells of smuggling.
        if "content-length" in headers:
            raise h11.RemoteProtocolError("both Transfer-Encoding and Content-Length")
        if request.http_version == b"1.0":
            raise h11.RemoteProtocolError("Transfer-Encoding in an HTTP/1.0 request")
    words = {word.strip().lower() for word in headers.get("connection", "").split(",")}
    return Head(
        request.method.decode(),
        request.target.decode(),
        headers,
        upgrade="upgrade" in words and "upgrade" in headers,
        bodyless="transfer-encoding" not in headers and int(headers.get("content-length", "0")) == 0,
    )


def judge_beginning(data: bytes) -> bool:
    """Whether the beginning of an incomplete head holds a whole request line. Raises h11.RemoteProtocolError.

    h11 judges a request line with the complete head, and who speaks something else never completes one: the line
    goes to h11 ahead of the rest.
    """
    line, ended, _ = data.partition(b"\n")
    if ended:
        early = h11.Connection(h11.SERVER)
        early.receive_data(line.removesuffix(b"\r") + b"\r\nHost: x\r\n\r\n")
        early.next_event()
    return bool(ended)


def response(status: int, headers: Mapping[str, str]) -> h11.Response:
    """Raises h11.LocalProtocolError for a value with a line break."""
    return h11.Response(
        status_code=status, headers=_encoded(headers), reason=_REASONS.get(status, b"Unknown")
    )


def switching(headers: Mapping[str, str]) -> h11.InformationalResponse:
    return h11.InformationalResponse(status_code=101, headers=_encoded(headers), reason=b"UPGRADED")


GO_AHEAD = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")


def unframed(reply: h11.Response) -> bytes:
    """The head's bytes as for a client that knows no framing but the connection's end.

    A connection of its own to h11: the one that carried the request would frame the body of a raw stream in
    chunks, and has no valid state after a malformed request.
    """
    return h11.Connection(h11.SERVER).send(reply)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers.items()]
