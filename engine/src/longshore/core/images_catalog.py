"""The catalogue of images: the database's tables with a copy in memory, so that looking up costs no query.

Used from the event loop's thread, but `uses_blob` and `uses_layer` may be asked from any.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

import msgspec

from longshore.core.database import Database
from longshore.core.images_model import Image, Layer
from longshore.errors import InvalidArgument, NotFound
from longshore.oci.descriptor import Descriptor
from longshore.oci.digest import Digest, parse_digest, sha256_of
from longshore.oci.image_config import parse_image_config
from longshore.oci.manifest import MAX_MANIFEST
from longshore.oci.reference import parse_reference
from longshore.storage.content import ContentStore

_SCHEMA = (
    """
    CREATE TABLE images (
        id TEXT PRIMARY KEY, manifest TEXT NOT NULL, layers TEXT NOT NULL, created TEXT NOT NULL,
        size INTEGER NOT NULL, parent TEXT NOT NULL, hidden INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE image_references (
        reference TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
    )
    """,
    "ALTER TABLE images ADD COLUMN config TEXT NOT NULL DEFAULT ''",
)
_HEX = re.compile(r"[0-9a-f]{1,64}")


class _StoredLayer(msgspec.Struct, frozen=True, rename="camel"):
    descriptor: Descriptor
    diff_id: str
    size: int


class Catalog:
    def __init__(self, database: Database, content: ContentStore) -> None:
        self._database = database
        database.migrate("images", _SCHEMA)
        self._images: dict[Digest, Image] = {}  # without their names
        self._names: dict[str, Digest] = {}
        self._names_of: defaultdict[Digest, set[str]] = defaultdict(set)
        self._blobs: Counter[Digest] = Counter()
        self._layers: Counter[Digest] = Counter()
        self.damaged: list[str] = []  # ids whose config is gone or no longer reads; `get` does not find them
        for row in database.all("SELECT * FROM images"):
            try:
                self._remember(_from_row(row, content))
            except (NotFound, InvalidArgument, msgspec.MsgspecError):
                self.damaged.append(str(row["id"]))
        for row in database.all("SELECT * FROM image_references"):
            if (id := parse_digest(str(row["image"]))) in self._images:
                self._name(str(row["reference"]), id)

    # Questions

    def find(self, name: str) -> Image:
        """By reference, id or unique prefix of an id. Raises NotFound("No such image: …")."""
        bare = name.removeprefix("sha256:")
        if len(bare) == 64 and _HEX.fullmatch(bare):
            image = self.by_id(Digest("sha256", bare))
            if image:
                return image
            raise NotFound(f"No such image: {name}")
        shown = name
        if not name.startswith("sha256:"):
            reference = parse_reference(name).with_default_tag()
            shown = reference.familiar
            if reference.canonical in self._names:
                return self._named(self._images[self._names[reference.canonical]])
        matches = [
            image for id, image in self._images.items() if id.hex.startswith(bare) and not image.hidden
        ]
        if not _HEX.fullmatch(bare) or not matches:
            raise NotFound(f"No such image: {shown}")
        if len(matches) > 1:
            raise NotFound(f"No such image: {name}", detail=f"the prefix fits {len(matches)} images")
        return self._named(matches[0])

    def by_id(self, id: Digest) -> Image | None:
        """Also hidden ones: containers look their image up this way."""
        image = self._images.get(id)
        return self._named(image) if image else None

    def by_name(self, canonical: str) -> Image | None:
        id = self._names.get(canonical)
        return self.by_id(id) if id else None

    def all(self) -> list[Image]:
        """Everything that is not hidden, newest first."""
        visible = [self._named(image) for image in self._images.values() if not image.hidden]
        return sorted(visible, key=lambda image: (image.created, str(image.id)), reverse=True)

    def hidden(self) -> list[Image]:
        return [image for image in self._images.values() if image.hidden]

    def children(self, id: Digest) -> list[Digest]:
        return [i.id for i in self._images.values() if i.parent == id and not i.hidden]

    def uses_blob(self, digest: Digest) -> bool:
        return self._blobs[digest] > 0

    def uses_layer(self, diff_id: Digest) -> bool:
        return self._layers[diff_id] > 0

    def chains(self) -> set[Digest]:
        """The chain ids of all visible images."""
        return {chain for image in self._images.values() if not image.hidden for chain in chain_ids(image)}

    # Changes

    def insert(self, image: Image, references: Iterable[str] = ()) -> list[tuple[str, Digest]]:
        """Add an image, or show it again, and name it; returns the names it took and from whom."""
        with self._database.transaction():
            layers = [_StoredLayer(la.descriptor, str(la.diff_id), la.size) for la in image.layers]
            self._database.execute(
                "INSERT INTO images (id, manifest, layers, created, size, parent, config)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET hidden = 0, manifest = excluded.manifest,"
                " layers = excluded.layers, size = excluded.size, config = excluded.config",
                str(image.id),
                msgspec.json.encode(image.manifest).decode(),
                msgspec.json.encode(layers).decode(),
                image.created,
                image.size,
                str(image.parent or ""),
                str(image.config_blob or ""),
            )
            for reference in references:
                self._store_name(reference, image.id)
        self._forget(image.id)
        self._remember(image)
        return [taken for reference in references if (taken := self._name(reference, image.id))]

    def name(self, reference: str, id: Digest) -> Digest | None:
        """Point a name at an image; returns the image it pointed at before, if another."""
        self._store_name(reference, id)
        taken = self._name(reference, id)
        return taken[1] if taken else None

    def unname(self, reference: str) -> None:
        self._database.execute("DELETE FROM image_references WHERE reference = ?", reference)
        self._names_of[self._names.pop(reference)].discard(reference)

    def hide(self, id: Digest) -> None:
        """The image is gone for users; its containers can still start."""
        self._database.execute("UPDATE images SET hidden = 1 WHERE id = ?", str(id))
        self._images[id] = replace(self._images[id], hidden=True)

    def delete(self, id: Digest) -> None:
        """Forget an image and its names."""
        self._database.execute("DELETE FROM images WHERE id = ?", str(id))
        for reference in self._names_of.pop(id, set()):
            del self._names[reference]
        self._forget(id)

    def _store_name(self, reference: str, id: Digest) -> None:
        self._database.execute(
            "INSERT INTO image_references VALUES (?, ?)"
            " ON CONFLICT (reference) DO UPDATE SET image = excluded.image",
            reference,
            str(id),
        )

    def _name(self, reference: str, id: Digest) -> tuple[str, Digest] | None:
        before = self._names.get(reference)
        if before is not None:
            self._names_of[before].discard(reference)
        self._names[reference] = id
        self._names_of[id].add(reference)
        return (reference, before) if before not in (None, id) else None

    def _named(self, image: Image) -> Image:
        names = sorted(self._names_of.get(image.id, ()))
        parsed = [parse_reference(name) for name in names]
        return replace(
            image,
            references=tuple(names),
            tags=tuple(name.familiar for name in parsed if not name.digest),
            digests=tuple(name.familiar for name in parsed if name.digest),
        )

    def _remember(self, image: Image) -> None:
        self._images[image.id] = image
        self._blobs.update(blobs_of(image))
        self._layers.update({layer.diff_id for layer in image.layers})

    def _forget(self, id: Digest) -> None:
        if image := self._images.pop(id, None):
            self._blobs.subtract(blobs_of(image))
            self._layers.subtract({layer.diff_id for layer in image.layers})


def blobs_of(image: Image) -> set[Digest]:
    """Everything in the content store that makes up the image."""
    documents = {image.id, image.config_blob or image.id, image.manifest.blob}
    return documents | {layer.descriptor.blob for layer in image.layers}


def chain_ids(image: Image) -> list[Digest]:
    """Names of the layer stacks, lowest first (OCI image spec, config.md, "Layer ChainID")."""
    chains: list[Digest] = []
    for layer in image.layers:
        chains.append(sha256_of(f"{chains[-1]} {layer.diff_id}".encode()) if chains else layer.diff_id)
    return chains


def _from_row(row: dict[str, object], content: ContentStore) -> Image:
    id = parse_digest(str(row["id"]))
    raw = content.read(id, MAX_MANIFEST)
    stored = msgspec.json.decode(str(row["layers"]), type=list[_StoredLayer])
    return Image(
        id=id,
        config=parse_image_config(raw),
        raw_config=raw,
        layers=tuple(Layer(layer.descriptor, parse_digest(layer.diff_id), layer.size) for layer in stored),
        manifest=msgspec.json.decode(str(row["manifest"]), type=Descriptor),
        size=int(str(row["size"])),
        created=str(row["created"]),
        parent=parse_digest(str(row["parent"])) if row["parent"] else None,
        hidden=bool(row["hidden"]),
        config_blob=parse_digest(str(row["config"])) if row["config"] else None,
    )
