"""Image archives: reading what `docker save`, skopeo and buildx write, and writing one that all of them read.

Reading never uses a name from the archive as a path: every file goes into the content store under the digest of
its bytes, and names are only keys of a dict. Formats: Docker's image spec v1.2 ("Combined Image JSON + Filesystem
Changeset Format") and the OCI image layout (image-layout.md).
"""

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Annotated

import msgspec

from longshore.errors import InvalidArgument, NotFound
from longshore.oci.descriptor import (
    DOCKER_CONFIG,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    Descriptor,
    Platform,
    host_platform,
)
from longshore.oci.digest import Digest, sha256_of
from longshore.oci.image_config import parse_image_config
from longshore.oci.manifest import MAX_LAYERS, MAX_MANIFEST, Index, parse_manifest, parts_of
from longshore.oci.reference import Reference, parse_reference
from longshore.oci.variants import Variant, choose, read_document, variants, walk
from longshore.storage.compression import CompressionError, decompressed, detect
from longshore.storage.content import ContentStore
from longshore.storage.tarstream import (
    CHUNK,
    DIRECTORY,
    END,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Entry,
    Source,
    TarError,
    TarReader,
    encode_header,
    padding,
)

MAX_MEMBERS = 100_000
_SMALL = 256 << 10  # kept in memory until somebody asks for it: most small files are leftovers of old formats
_SMALL_TOTAL = 64 << 20
_MAX_LINKS = 16
_LAYER_TYPES = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Found:
    """One image of an archive, its blobs in the content store. `manifest` None: the archive has no OCI one."""

    config: bytes
    layers: tuple[Descriptor, ...]
    manifest: bytes | None = None
    manifest_type: str = ""
    references: tuple[str, ...] = ()  # canonical
    target: Descriptor | None = (
        None  # what the references stand for: the index that has this manifest, or it itself
    )


class _ManifestEntry(msgspec.Struct, rename="pascal"):
    config: str
    layers: Annotated[list[str], msgspec.Meta(max_length=MAX_LAYERS)] | None = None
    repo_tags: list[str] | None = None


def read_archive(source: Source, content: ContentStore, platform: Platform | None = None) -> list[Found]:
    """All images of a stream, compressed or not. Blocks.

    Of an index everything that the archive has is kept; the image for this machine stands for it, or the one for
    `platform`, of which alone something is kept then. Call it under a lease of the content store. Raises
    InvalidArgument for everything wrong with the archive, NotFound without the platform, OutOfSpace.
    """
    members = _Members(content)
    try:
        plain = decompressed(source)
        members.take(TarReader(plain))
        while plain.read(CHUNK):
            pass  # to the checksum, and to the end of what the client sends
    except (TarError, CompressionError) as cause:
        raise InvalidArgument("invalid image archive", detail=str(cause)) from cause
    found = _from_layout(members, platform) or _from_manifest_json(members, platform)
    if not found:
        raise InvalidArgument(
            "invalid image archive", detail="it has neither manifest.json nor index.json with an image"
        )
    return found


class _Members:
    """The files of an archive by name and by digest."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._files: dict[str, Digest] = {}
        self._links: dict[str, str] = {}
        self._small: dict[Digest, bytes] = {}
        self._small_total = 0

    def take(self, reader: TarReader) -> None:
        """All files of an archive."""
        for count, entry in enumerate(reader):
            if count >= MAX_MEMBERS:
                raise TarError(f"more than {MAX_MEMBERS} files")
            name = _normal(entry.name)
            if entry.kind == REGULAR:
                self._files[name] = self._store(entry, reader)
            elif entry.kind == SYMLINK:  # docker save before 1.10 shared layers this way
                self._links[name] = _normal(posixpath.join(posixpath.dirname(name).encode(), entry.linkname))
            elif entry.kind == HARDLINK:
                self._links[name] = _normal(entry.linkname)

    def digest(self, name: str) -> Digest:
        """Raises InvalidArgument when the archive has no such file."""
        wanted = _normal(name.encode("utf-8", "surrogateescape"))
        for _ in range(_MAX_LINKS):
            if wanted in self._files:
                return self._files[wanted]
            if wanted not in self._links:
                break
            wanted = self._links[wanted]
        raise InvalidArgument("invalid image archive", detail=f"{name[:200]!r} is missing")

    def has_file(self, name: str) -> bool:
        return name in self._files

    def has(self, digest: Digest) -> bool:
        """Whether the archive, or the store, has these bytes."""
        return digest in self._small or self._content.has(digest)

    def read(self, digest: Digest, limit: int = MAX_MANIFEST) -> bytes:
        """A small file as a whole. Raises InvalidArgument, NotFound."""
        data = self._small.get(digest)
        return data if data is not None else self._content.read(digest, limit)

    def keep(self, digest: Digest) -> int:
        """Make sure the content store has it; returns the size. Raises NotFound."""
        if digest in self._small:
            self._content.put(self._small[digest])
        self._content.has(digest)  # for the lease
        return self._content.size(digest)

    def head(self, digest: Digest) -> bytes:
        if digest in self._small:
            return self._small[digest][:6]
        with self._content.open(digest) as file:
            return file.read(6)

    def unpacked(self, digest: Digest) -> Digest:
        """The same layer without a compression that no registry takes."""
        source = BytesIO(self._small[digest]) if digest in self._small else self._content.open(digest)
        with source, self._content.writer() as writer:
            plain = decompressed(source)
            while data := plain.read(CHUNK):
                writer.write(data)
            return writer.commit()

    def _store(self, entry: Entry, reader: TarReader) -> Digest:
        if entry.sparse is not None:
            raise TarError("sparse file in an image archive")
        if entry.size <= _SMALL and self._small_total + entry.size <= _SMALL_TOTAL:
            data = b"".join(piece for _, piece in reader.data())
            digest = sha256_of(data)
            self._small[digest] = data
            self._small_total += len(data)
            return digest
        with self._content.writer(size=entry.size) as writer:
            for _, piece in reader.data():
                writer.write(piece)
            return writer.commit()


def _normal(name: bytes) -> str:
    """A name as a key: lexically cleaned, and never used for anything but comparison."""
    return posixpath.normpath("/" + name.decode("utf-8", "surrogateescape"))[1:]


# docker save


def _from_manifest_json(members: _Members, platform: Platform | None) -> list[Found]:
    if not members.has_file("manifest.json"):
        return []
    return [_docker_image(members, entry, platform) for entry in _manifest_entries(members)]


def _manifest_entries(members: _Members) -> list[_ManifestEntry]:
    data = members.read(members.digest("manifest.json"))
    try:
        return msgspec.json.decode(data, type=list[_ManifestEntry])
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise InvalidArgument("invalid manifest.json", detail=str(cause)) from cause


def _docker_image(members: _Members, entry: _ManifestEntry, platform: Platform | None) -> Found:
    layers: list[Descriptor] = []
    for name in entry.layers or ():
        digest = members.digest(name)
        try:
            kind = detect(members.head(digest))
            if kind not in _LAYER_TYPES:
                digest, kind = members.unpacked(digest), ""
        except CompressionError as cause:
            raise InvalidArgument("invalid layer", detail=str(cause)) from cause
        layers.append(Descriptor(_LAYER_TYPES[kind], str(digest), members.keep(digest)))
    raw = members.read(members.digest(entry.config))
    config = parse_image_config(raw)
    if platform and (config.os, config.architecture) != (platform.os, platform.architecture):
        name = (entry.repo_tags or [entry.config])[0]
        raise NotFound(f"image {name} was found but does not provide the specified platform ({platform})")
    return Found(raw, tuple(layers), references=_canonical(entry.repo_tags or ()))


def _canonical(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(parse_reference(name).with_default_tag().canonical for name in names)


# OCI layout


def _from_layout(members: _Members, platform: Platform | None) -> list[Found]:
    if not (members.has_file("oci-layout") and members.has_file("index.json")):
        return []
    index = parse_manifest(members.read(members.digest("index.json")), OCI_INDEX)
    if not isinstance(index, Index):
        raise InvalidArgument("invalid index.json", detail="it is no index")
    tags: dict[Digest, tuple[str, ...]] = {}
    if members.has_file("manifest.json"):
        tags = {members.digest(e.config): _canonical(e.repo_tags or ()) for e in _manifest_entries(members)}
    found: dict[tuple[Digest, Descriptor | None], Found] = {}
    images = [one for one in index.manifests if not _is_artifact(members, one)]
    for descriptor in _of_platform(images, platform or host_platform()):
        image = _layout_image(members, descriptor, platform)
        key = sha256_of(image.config), image.target
        names = (*_names(descriptor), *tags.get(key[0], ()))
        known = found[key].references if key in found else ()
        found[key] = replace(image, references=tuple(dict.fromkeys((*known, *names))))
    return list(found.values())


def _is_artifact(members: _Members, descriptor: Descriptor) -> bool:
    """A signature, an SBOM or the like beside the images: it has no image config."""
    if descriptor.artifact_type:
        return True
    if descriptor.media_type not in MANIFEST_TYPES:
        return False
    parts = parts_of(read_document(members, descriptor.blob) or b"")
    return bool(parts) and parts[0].media_type not in (OCI_CONFIG, DOCKER_CONFIG)


def _of_platform(descriptors: Sequence[Descriptor], platform: Platform) -> list[Descriptor]:
    """Images for other machines are left out where there is one for this; what is no image always is."""
    images = [d for d in descriptors if d.media_type in MANIFEST_TYPES | INDEX_TYPES]
    images = [d for d in images if d.platform is None or d.platform.os != "unknown"]
    fitting = [
        d
        for d in images
        if d.platform is None
        or (d.platform.os, d.platform.architecture) == (platform.os, platform.architecture)
    ]
    return fitting or images


def _layout_image(members: _Members, descriptor: Descriptor, platform: Platform | None) -> Found:
    """The image that stands for an entry of index.json; all that belongs to the entry is kept."""
    target = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)
    found = variants(target, members)
    images = [one for one in found if one.kind == "image" and one.available]
    if not images:
        raise _incomplete(members, target, found)
    if platform is not None:
        image = choose(images, platform, f"{(*_names(descriptor), target.digest)[0]}")
        target = image.descriptor
    else:
        try:
            image = choose(images, host_platform(), target.digest)
        except NotFound:  # it can be looked at, saved and pushed, if not run
            image = images[0]
    for part in walk(target, members):
        if members.has(part.blob):
            size = members.keep(part.blob)
            if size != part.size:
                raise InvalidArgument(
                    "invalid image archive", detail=f"{part.digest} has {size} bytes, not {part.size}"
                )
    kind = image.descriptor.media_type
    index = target if target.media_type in INDEX_TYPES else None
    manifest = members.read(image.descriptor.blob)
    return Found(image.raw_config, image.parts[1:], manifest, kind, target=index)


def _incomplete(members: _Members, target: Descriptor, found: Sequence[Variant]) -> InvalidArgument:
    """Why there is no image behind an entry."""
    for one in found:
        for part in one.missing:
            return InvalidArgument("invalid image archive", detail=f"{part.digest} is missing")
        parse_manifest(members.read(one.descriptor.blob), one.descriptor.media_type)  # it may say more
        if one.parts:
            parse_image_config(members.read(one.parts[0].blob))
    return InvalidArgument("invalid image archive", detail=f"{target.digest} has no image")


def _names(descriptor: Descriptor) -> tuple[str, ...]:
    annotations = descriptor.annotations or {}
    if name := annotations.get(_NAME):
        return _canonical([name])
    name = annotations.get(_REF_NAME, "")
    # skopeo puts a whole name here, docker only the tag, which names nothing by itself
    return _canonical([name]) if "/" in name or ":" in name else ()


# Writing


@dataclass(frozen=True, slots=True)
class Saved:
    """One image to write, all of it in the content store. `config` and `layers` are what a Docker archive shows."""

    manifest: Descriptor  # or the index
    config: Descriptor
    layers: tuple[Descriptor, ...]
    tags: tuple[Reference, ...] = ()
    more: tuple[Descriptor, ...] = ()  # of an index: what is here of its other platforms


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive to be: bytes, or a blob of the content store."""

    name: str
    size: int
    content: bytes | Digest | None = None  # None: a directory


@dataclass(slots=True)
class _Documents:
    index: list[Descriptor] = field(default_factory=list[Descriptor])
    manifest: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    repositories: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])


def plan_archive(images: Sequence[Saved]) -> list[Member]:
    """The files of one archive that is both a Docker archive and an OCI layout. Pure; equal input, equal plan."""
    documents = _Documents()
    blobs: dict[str, int] = {}
    for image in images:
        for part in (image.manifest, image.config, *image.layers, *image.more):
            blobs[part.digest] = part.size
        _describe(image, documents)
    index = Index(schema_version=2, media_type=OCI_INDEX, manifests=documents.index)
    encode = msgspec.json.Encoder(order="sorted").encode
    texts = {
        "index.json": encode(index),
        "manifest.json": encode(documents.manifest),
        "oci-layout": encode({"imageLayoutVersion": "1.0.0"}),
        "repositories": encode(documents.repositories),
    }
    folders = sorted({digest.partition(":")[0] for digest in blobs} | {"sha256"})
    members = [Member("blobs/", 0), *(Member(f"blobs/{name}/", 0) for name in folders)]
    for digest, size in sorted(blobs.items()):
        value = Descriptor("", digest, size).blob
        members.append(Member(_blob_path(digest), size, value))
    return members + [Member(name, len(data), data) for name, data in texts.items()]


def _describe(image: Saved, documents: _Documents) -> None:
    plain = Descriptor(image.manifest.media_type, image.manifest.digest, image.manifest.size)
    for tag in image.tags:
        annotations = {_NAME: str(tag), _REF_NAME: tag.tag or ""}
        documents.index.append(msgspec.structs.replace(plain, annotations=annotations))
        if image.layers:
            top = image.layers[-1].blob.hex
            documents.repositories.setdefault(tag.familiar_name, {})[tag.tag or ""] = top
    if not image.tags:
        documents.index.append(plain)
    documents.manifest.append(
        {
            "Config": _blob_path(image.config.digest),
            "RepoTags": [tag.familiar for tag in image.tags] or None,
            "Layers": [_blob_path(layer.digest) for layer in image.layers],
        }
    )


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def write_archive(members: Iterable[Member], content: ContentStore) -> Iterator[bytes]:
    """The tar, piece by piece. Blocks; raises NotFound when a blob is gone."""
    for member in members:
        kind = DIRECTORY if member.content is None else REGULAR
        mode = 0o755 if member.content is None else 0o644
        yield encode_header(Entry(member.name.encode(), kind, mode=mode, stored=member.size))
        if isinstance(member.content, bytes):
            yield member.content
        elif member.content is not None:
            with content.open(member.content) as file:
                while data := file.read(CHUNK):
                    yield data
        yield padding(member.size)
    yield END
