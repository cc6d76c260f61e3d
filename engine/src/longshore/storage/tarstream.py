"""Tar as a stream of entries: reading ustar, PAX and GNU (long names, sparse), writing ustar with PAX.

Our own reader because the input is hostile: every header field, extension and sparse map is bounded before memory
is spent on it, names stay bytes, and nothing here knows how to open a file. Formats: pax(1) of POSIX.1-2017
and the tar manual's "Tar Internals". Raises TarError for everything that is wrong with an archive.
"""

from collections.abc import Iterator
from typing import Protocol

BLOCK = 512
CHUNK = 1 << 20
MAX_EXTENSION = 1 << 20  # a PAX or long-name block; the kernel's own limit for one xattr is 64 KiB
MAX_SPARSE = 100_000
_PADDING = bytes(BLOCK)
_FARTHEST = 2**62  # nanoseconds: the years 1823 to 2116

REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCKDEV, DIRECTORY, FIFO = (b"0", b"1", b"2", b"3", b"4", b"5", b"6")
_XATTR = b"SCHILY.xattr."
_OCTAL = frozenset(b"01234567")


class TarError(Exception):
    """The archive is damaged, too large or not a tar at all."""


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class Entry:
    """One member. `stored` bytes follow it in the archive; `size` is what the file has in the end.

    No dataclass: that module would double the start time of the worker process.
    """

    __slots__ = (
        "device",
        "gid",
        "kind",
        "linkname",
        "mode",
        "mtime_ns",
        "name",
        "size",
        "sparse",
        "stored",
        "uid",
        "xattrs",
    )

    def __init__(
        self,
        name: bytes,
        kind: bytes = REGULAR,
        *,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime_ns: int = 0,
        linkname: bytes = b"",
        device: tuple[int, int] = (0, 0),
        stored: int = 0,
    ) -> None:
        self.name, self.kind, self.mode, self.uid, self.gid = name, kind, mode, uid, gid
        self.size, self.mtime_ns, self.linkname, self.device = size, mtime_ns, linkname, device
        self.stored = stored
        self.xattrs: dict[bytes, bytes] = {}
        self.sparse: list[tuple[int, int]] | None = None  # (offset, length) of the data; holes between


class TarReader:
    """Iterate over the entries; `data()` gives the bytes of the newest one and may be left unread."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = 0  # unread data of the current entry
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}
        self._current: Entry | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Entries in archive order, up to the end marker or the end of the source."""
        while (entry := self._next()) is not None:
            yield entry

    def data(self) -> Iterator[tuple[int, bytes]]:
        """(offset in the file, bytes) of the current entry. Raises TarError when the archive ends too early."""
        entry = self._current
        if entry is None:
            return
        for start, length in entry.sparse if entry.sparse is not None else [(0, entry.stored)]:
            done = 0
            while done < length:
                chunk = self._read(min(CHUNK, length - done))
                self._left -= len(chunk)
                yield start + done, chunk
                done += len(chunk)

    def _next(self) -> Entry | None:
        self._skip()
        extensions: dict[bytes, bytes] = {}
        sparse: list[tuple[int, int]] = []
        long_name, long_link = b"", b""
        for _ in range(16):  # more extension headers before one entry than any writer makes
            block = self._source.read(BLOCK)
            if not block or block == _PADDING:
                self._current = None
                return None
            if len(block) < BLOCK:
                raise TarError("unexpected end of archive in a header")
            entry = _parse_header(block)
            match entry.kind:
                case b"x" | b"X":
                    records = _parse_pax(self._extension(entry.size))
                    sparse = _sparse_00(records)
                    extensions = dict(records)
                case b"g":
                    self._globals |= dict(_parse_pax(self._extension(entry.size)))
                case b"L":
                    long_name = self._extension(entry.size).rstrip(b"\0")
                case b"K":
                    long_link = self._extension(entry.size).rstrip(b"\0")
                case _:
                    entry.name = long_name or entry.name
                    entry.linkname = long_link or entry.linkname
                    self._extend(entry, {**self._globals, **extensions}, sparse, block)
                    if entry.kind == b"V":  # a GNU volume label is no file
                        return self._next()
                    return _checked(entry)
        raise TarError("too many extension headers")

    def _extend(
        self, entry: Entry, records: dict[bytes, bytes], sparse: list[tuple[int, int]], block: bytes
    ) -> None:
        """Apply PAX records and work out how much data follows."""
        if records:
            _apply_pax(entry, records)
        if entry.kind in (b"\0", b"7"):
            entry.kind = REGULAR
        if entry.kind == REGULAR and entry.name.endswith(b"/"):  # how tar of 1979 wrote directories
            entry.kind = DIRECTORY
        # only these carry data, whatever their size field says
        entry.stored = entry.size if entry.kind in (REGULAR, b"S", b"D", b"V") else 0
        if entry.kind == b"D":  # GNU incremental: a directory with a list of its names
            entry.kind = DIRECTORY
        self._left, self._padding = entry.stored, -entry.stored % BLOCK
        self._current = entry
        if entry.kind == b"S":
            self._old_sparse(entry, block)
        elif entry.kind == REGULAR and b"GNU.sparse.major" in records:
            self._sparse_10(entry, records)
        elif entry.kind == REGULAR and b"GNU.sparse.size" in records:
            text = records.get(b"GNU.sparse.map")
            entry.sparse = _pairs([_number(part) for part in text.split(b",")]) if text else sparse
            entry.size = _number(records[b"GNU.sparse.size"])
            entry.name = records.get(b"GNU.sparse.name", entry.name)
        else:
            entry.size = entry.stored if entry.kind == REGULAR else 0
        if entry.sparse is not None:
            _check_sparse(entry, self._left)

    def _old_sparse(self, entry: Entry, block: bytes) -> None:
        """GNU 1988: four pairs in the header, more in the blocks that follow it."""
        pairs = _header_pairs(block, 386, 4)
        more, entry.size = block[482], _field(block, 483, 12)
        while more:
            block = self._read(BLOCK)
            pairs += _header_pairs(block, 0, 21)
            more = block[504]
            if len(pairs) > MAX_SPARSE:
                raise TarError("sparse map too large")
        entry.kind, entry.sparse = REGULAR, pairs

    def _sparse_10(self, entry: Entry, records: dict[bytes, bytes]) -> None:
        """PAX sparse 1.0: the map is decimal lines at the start of the data, padded to a block."""
        if (records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise TarError("unknown sparse format")
        lines: list[bytes] = []
        rest = b""
        wanted = 1
        while len(lines) < wanted:
            if self._left < BLOCK:
                raise TarError("sparse map incomplete")
            self._left -= BLOCK
            *complete, rest = (rest + self._read(BLOCK)).split(b"\n")
            lines += complete
            if lines:
                wanted = 1 + 2 * _number(lines[0])
            if wanted > 2 * MAX_SPARSE:
                raise TarError("sparse map too large")
            if len(lines) < wanted and len(rest) > 32:  # no number is that long
                raise TarError("invalid sparse map")
        entry.sparse = _pairs([_number(line) for line in lines[1:wanted]])
        entry.size = _number(records.get(b"GNU.sparse.realsize", b""))
        entry.name = records.get(b"GNU.sparse.name", entry.name)

    def _extension(self, size: int) -> bytes:
        if size > MAX_EXTENSION:
            raise TarError(f"extension header of {size} bytes, the limit is {MAX_EXTENSION}")
        data = self._read(size)
        self._read(-size % BLOCK)
        return data

    def _skip(self) -> None:
        """Read past what is left of the current entry. A last entry may lack its padding."""
        while self._left:
            self._left -= len(self._read(min(CHUNK, self._left)))
        if self._padding:
            self._source.read(self._padding)
            self._padding = 0

    def _read(self, size: int) -> bytes:
        data = self._source.read(size)
        if len(data) != size:
            raise TarError("unexpected end of archive")
        return data


def _parse_header(block: bytes) -> Entry:
    if _field(block, 148, 8) != sum(block) - sum(block[148:156]) + 8 * 32:
        raise TarError("not a tar archive or damaged: header checksum mismatch")
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    return Entry(
        name=name,
        kind=block[156:157],
        mode=_field(block, 100, 8) & 0o7777,
        uid=_field(block, 108, 8),
        gid=_field(block, 116, 8),
        size=_field(block, 124, 12),
        mtime_ns=_field(block, 136, 12, signed=True) * 1_000_000_000,
        linkname=block[157:257].partition(b"\0")[0],
        device=(_field(block, 329, 8), _field(block, 337, 8)) if block[156:157] in b"34" else (0, 0),
    )


def _field(block: bytes, start: int, length: int, *, signed: bool = False) -> int:
    """An octal number, or GNU's base-256 when the first bit is set."""
    raw = block[start : start + length]
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big", signed=True) if raw[0] == 0xFF else int.from_bytes(raw, "big")
        value = value if raw[0] == 0xFF else value - (0x80 << (8 * (length - 1)))
        if value < 0 and not signed:
            raise TarError("negative number in a header")
        return value
    digits = raw.partition(b"\0")[0].strip()
    if not _OCTAL.issuperset(digits):
        raise TarError("not a tar archive or damaged: bad number in a header")
    return int(digits or b"0", 8)


def _parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """Records "length key=value\\n" in order; keys repeat in sparse format 0.0."""
    records: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(data) and data[position]:
        space = data.find(b" ", position, position + 21)
        length = _number(data[position:space]) if space > 0 else 0
        end = position + length
        if length == 0 or end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n":
            raise TarError("damaged PAX header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise TarError("damaged PAX header")
        records.append((key, value))
        position = end
    return records


def _apply_pax(entry: Entry, records: dict[bytes, bytes]) -> None:
    for key, value in records.items():
        if key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :]] = value
        elif not value:
            continue  # an empty value takes an earlier record back
        elif key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.linkname = value
        elif key == b"size":
            entry.size = _number(value)
        elif key == b"uid":
            entry.uid = _number(value)
        elif key == b"gid":
            entry.gid = _number(value)
        elif key == b"mtime":
            entry.mtime_ns = _nanoseconds(value)


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise TarError(f"bad number {text[:30]!r} in an extension header")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    whole, _, fraction = text.partition(b".")
    seconds = _number(whole.removeprefix(b"-"))
    nanoseconds = seconds * 1_000_000_000 + (_number(fraction[:9].ljust(9, b"0")) if fraction else 0)
    return -nanoseconds if whole.startswith(b"-") else nanoseconds


def _sparse_00(records: list[tuple[bytes, bytes]]) -> list[tuple[int, int]]:
    numbers = [_number(v) for k, v in records if k in (b"GNU.sparse.offset", b"GNU.sparse.numbytes")]
    return _pairs(numbers)


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2 or len(numbers) > 2 * MAX_SPARSE:
        raise TarError("invalid sparse map")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _header_pairs(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    pairs = [
        (_field(block, start + 24 * n, 12), _field(block, start + 24 * n + 12, 12)) for n in range(count)
    ]
    return [(offset, length) for offset, length in pairs if offset or length]


def _check_sparse(entry: Entry, data: int) -> None:
    """The pieces rise, do not overlap, end inside the file and use exactly the data that follows."""
    position = 0
    for offset, length in entry.sparse or ():
        if offset < position or offset + length > entry.size:
            raise TarError("invalid sparse map")
        position = offset + length
        data -= length
    if data != 0:
        raise TarError("invalid sparse map")


def _checked(entry: Entry) -> Entry:
    if not entry.name or b"\0" in entry.name or b"\0" in entry.linkname:
        raise TarError("entry without a valid name")
    if not (0 <= entry.uid < 2**32 - 1 and 0 <= entry.gid < 2**32 - 1):
        raise TarError(f"owner out of range: {entry.name[:200]!r}")
    entry.mtime_ns = max(-_FARTHEST, min(entry.mtime_ns, _FARTHEST))  # no reason to refuse a file
    if max(entry.device) >= 2**20 or entry.size >= 2**62:
        raise TarError(f"number out of range: {entry.name[:200]!r}")
    if entry.kind not in (REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCKDEV, DIRECTORY, FIFO):
        raise TarError(f"unknown entry type {entry.kind!r}: {entry.name[:200]!r}")
    return entry


# Writing


def encode_header(entry: Entry) -> bytes:
    """The header of an entry, with a PAX header before it where ustar cannot say it. Equal input, equal bytes."""
    records: dict[bytes, bytes] = {_XATTR + name: entry.xattrs[name] for name in entry.xattrs}
    prefix, name = _split_name(entry.name)
    if name is None:
        records[b"path"] = entry.name
        prefix, name = b"", _ascii(entry.name)[:100]
    linkname = entry.linkname
    if len(linkname) > 100 or not linkname.isascii():
        records[b"linkpath"] = linkname
        linkname = _ascii(linkname)[:100]
    seconds = entry.mtime_ns // 1_000_000_000  # whole seconds, as in the layers that everybody else writes
    fields = {
        b"size": (entry.stored, 12),
        b"uid": (entry.uid, 8),
        b"gid": (entry.gid, 8),
        b"mtime": (seconds, 12),
    }
    encoded: dict[bytes, bytes] = {}
    for key, (value, width) in fields.items():
        if not 0 <= value < 8 ** (width - 1):
            records[key] = b"%d" % value
            value = 0
        encoded[key] = b"%0*o\0" % (width - 1, value)
    header = b"".join(
        (
            name.ljust(100, b"\0"),
            b"%07o\0" % (entry.mode & 0o7777),
            encoded[b"uid"],
            encoded[b"gid"],
            encoded[b"size"],
            encoded[b"mtime"],
            b" " * 8,
            entry.kind,
            linkname.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),  # no user and group names: they depend on the host
            b"%07o\0%07o\0" % entry.device,
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    return _encode_pax(records) + header if records else header


def padding(size: int) -> bytes:
    """What follows `size` bytes of data up to the next block."""
    return _PADDING[: -size % BLOCK]


END = bytes(2 * BLOCK)


def _encode_pax(records: dict[bytes, bytes]) -> bytes:
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    header = encode_header(Entry(name=b"PaxHeaders/0", kind=b"x", mode=0o644, stored=len(body)))
    return header + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    """The length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _split_name(name: bytes) -> tuple[bytes, bytes | None]:
    """ustar's prefix and name; None where it does not fit or is not ASCII."""
    if not name.isascii():
        return b"", None
    if len(name) <= 100:
        return b"", name
    slash = name.rfind(b"/", 0, 156)
    if slash > 0 and 0 < len(name) - slash - 1 <= 100:
        return name[:slash], name[slash + 1 :]
    return b"", None


def _ascii(name: bytes) -> bytes:
    return bytes(byte if byte < 128 else 0x5F for byte in name)
