"""Range and Content-Range. Pure. RFC 9110, section 14; the specification's own form for chunks of an upload."""

import re

from longshore.registry.server.refusals import Code, Refused

_ONE = re.compile(r"bytes\s*=\s*(\d*)-(\d*)\s*")
_CHUNK = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/(?:\d+|\*))?")


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """(first byte, length) of what a client asks of `size` bytes; None: send everything.

    Other units, several ranges and what is no range are ignored, as a server may (14.2). Raises Refused with
    status 416 when none of the bytes exists.
    """
    found = _ONE.fullmatch(header)
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:
        length = min(int(found[2][:18]), size)
        first = size - length
    else:
        first = int(found[1][:18])
        last = min(int(found[2][:18]), size - 1) if found[2] else size - 1
        length = last - first + 1
    if length <= 0 or first >= size:
        raise Refused(
            Code.SIZE_INVALID,
            f"the blob has {size} bytes",
            status=416,
            headers={"Content-Range": f"bytes */{size}"},
        )
    return first, length


def parse_chunk_range(header: str) -> tuple[int, int]:
    """(first, length) of a chunk: `<first>-<last>`, both included. Raises Refused BLOB_UPLOAD_INVALID."""
    found = _CHUNK.fullmatch(header.strip())
    if found is None:
        raise Refused(Code.BLOB_UPLOAD_INVALID, f"Content-Range {header[:60]!r} is not <first>-<last>")
    first, last = int(found[1]), int(found[2])
    if last < first:
        raise Refused(Code.BLOB_UPLOAD_INVALID, f"Content-Range {header[:60]!r} ends before it begins")
    return first, last - first + 1
