"""Attack 9: a decompressor, or a module of one, that somebody else has put where the engine would look for it."""

import bz2
import gzip
import lzma
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from layer_lab import Lab, entry, tar

from longshore.errors import InvalidArgument
from longshore.oci.digest import sha256_of

PROGRAMS = ("xz", "unxz", "gzip", "gunzip", "zcat", "pigz", "unpigz", "zstd", "unzstd", "bzip2", "tar")
MODULES = (
    "zlib",
    "gzip",
    "bz2",
    "lzma",
    "zstandard",
    "isal",
    "tarfile",
    "codecs",
    "encodings",
    "errno",
    "wave",
)
PACK = {"gzip": gzip.compress, "zstd": zstandard.compress, "xz": lzma.compress, "bzip2": bz2.compress}


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Programs first on PATH, modules in the working directory and on PYTHONPATH; each would make the canary."""
    canary, folder = tmp_path / "canary", tmp_path / "traps"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {canary}\nexec cat\n")
        (folder / name).chmod(0o755)
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(canary)!r}, 'a').write({name!r})\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.chdir(folder)
    yield canary
    assert not canary.exists(), canary.read_text()


@pytest.mark.parametrize("kind", PACK)
def test_attack_09_no_foreign_decompressor_runs(traps: Path, tmp_path: Path, kind: str) -> None:
    """Fails when a layer is unpacked by a program of PATH, or by a module that is looked up after the start. The layer
    brings the same modules, which would lie at the root of the worker that unpacks it."""
    lab = Lab(tmp_path / "lab")
    planted = f"open({str(traps)!r}, 'a').write('from the layer')\n".encode()
    plain = tar(*(entry(f"{name}.py", planted) for name in MODULES), entry("file", b"x"))
    packed = lab.content.put(PACK[kind](plain))
    if kind in ("xz", "bzip2"):  # no layer is packed like that, and nobody is asked to try
        with pytest.raises(InvalidArgument, match="compressed with"):
            lab.layers.unpack(packed, sha256_of(plain))
        return
    lab.layers.unpack(packed, sha256_of(plain))
    (root,) = (path for path in lab.layers.directory.iterdir() if (path / "file").exists())
    descriptor, diff_id = lab.layers.commit_upper(root)  # packing runs no program either
    assert lab.content.has(descriptor.blob)
    assert lab.layers.has(diff_id)
