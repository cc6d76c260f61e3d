"""Control group files: small texts, read and written whole."""

import os


def read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts: list[bytes] = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    finally:
        os.close(fd)


def write(path: str, value: str) -> None:
    """One write(2): the kernel takes each as one setting. Never creates a file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read_pairs(path: str) -> dict[str, int]:
    """A flat keyed file like memory.stat."""
    pairs: dict[str, int] = {}
    for line in read(path).splitlines():
        key, _space, value = line.partition(" ")
        if value.lstrip("-").isdigit():
            pairs[key] = int(value)
    return pairs
