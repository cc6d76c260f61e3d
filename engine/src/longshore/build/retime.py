"""A layer once more with no time after SOURCE_DATE_EPOCH (`rewrite-timestamp`)."""

from collections.abc import Callable

from longshore.oci.digest import Digest
from longshore.storage.compression import decompressed
from longshore.storage.content import ContentStore
from longshore.storage.tarstream import END, TarReader, encode_header, padding


def clamped(content: ContentStore, blob: Digest, epoch: int, write: Callable[[bytes], object]) -> None:
    """Write the blob's tar with every later time replaced by `epoch` (seconds since 1970). Blocks."""
    with content.open(blob) as file:
        reader = TarReader(decompressed(file))
        for entry in reader:
            entry.mtime_ns = min(entry.mtime_ns, epoch * 1_000_000_000)
            entry.stored = entry.size
            write(encode_header(entry))
            for _offset, piece in reader.data():  # our own layers are never sparse
                write(piece)
            write(padding(entry.size))
        write(END)
