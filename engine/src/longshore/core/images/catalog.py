"""The catalogue of images: the database's tables with a copy in memory, so that looking up costs no query.

Used from the event loop's thread, but `uses_blob` and `uses_layer` may be asked from any.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

import msgspec

from longshore.core.database import Database
from longshore.core.images.model import Image, Layer
from longshore.errors import InvalidArgument, NotFound
from longshore.oci.descriptor import Descriptor
from longshore.oci.digest import Digest, parse_digest, sha256_of
from longshore.oci.image_config import parse_image_config
from longshore.oci.manifest import MAX_MANIFEST
from longshore.oci.reference import parse_reference
from longshore.oci.variants import closure
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
    """
    ALTER TABLE images ADD COLUMN tagged TEXT NOT NULL DEFAULT '';
    ALTER TABLE image_references ADD COLUMN target TEXT NOT NULL DEFAULT '';
    CREATE TABLE images_dropped (manifest TEXT PRIMARY KEY)
    """,
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
        self._content = content
        self._names: dict[str, Digest] = {}
        self._targets: dict[str, Descriptor] = {}  # what each name stands for: a manifest or an index
        self._held: dict[Digest, tuple[int, frozenset[Digest]]] = {}  # by target: its names, all its parts
        self._names_of: defaultdict[Digest, set[str]] = defaultdict(set)
        self._blobs: Counter[Digest] = Counter()
        self._layers: Counter[Digest] = Counter()
        self.damaged: list[str] = []  # ids whose config is gone or no longer reads; `get` does not find them
        for row in database.all("SELECT * FROM images"):
            try:
                self._remember(_from_row(row, content))
            except (NotFound, InvalidArgument, msgspec.MsgspecError):
                self.damaged.append(str(row["id"]))
        self.dropped = {str(row["manifest"]) for row in database.all("SELECT * FROM images_dropped")}
        for row in database.all("SELECT * FROM image_references"):
            if (id := parse_digest(str(row["image"]))) in self._images:
                self._name(str(row["reference"]), id, self._stored_target(row, id))

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

    def names(self) -> list[str]:
        """All names, canonical."""
        return list(self._names)

    def target(self, canonical: str) -> Descriptor:
        """What a name stands for: the manifest, or the index with manifests for several platforms."""
        return self._targets[canonical]

    def parts(self, canonical: str) -> frozenset[Digest]:
        """All that the target of a name is made of, itself included; not all of it need be here."""
        return self._held[self._targets[canonical].blob][1]

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

    def insert(
        self, image: Image, references: Iterable[str] = (), target: Descriptor | None = None
    ) -> list[tuple[str, Digest]]:
        """Add an image, or show it again, and name it; returns the names it took and from whom.

        `target`: the index that the names stand for, where it is not the image's own manifest.
        """
        target = target or image.manifest
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
                self._store_name(reference, image.id, target)
            self._database.execute("DELETE FROM images_dropped WHERE manifest = ?", image.manifest.digest)
        self.dropped.discard(image.manifest.digest)
        known = self._images.get(image.id)
        self._forget(image.id)
        self._remember(replace(image, tagged=known.tagged if known else ""))
        self._refresh(target)
        return [taken for reference in references if (taken := self._name(reference, image.id, target))]

    def name(self, reference: str, id: Digest, target: Descriptor | None = None) -> Digest | None:
        """Point a name at an image; returns the image it pointed at before, if another."""
        target = target or self._images[id].manifest
        self._store_name(reference, id, target)
        taken = self._name(reference, id, target)
        return taken[1] if taken else None

    def note_tagged(self, id: Digest, when: str) -> None:
        """`when`: RFC 3339."""
        self._database.execute("UPDATE images SET tagged = ? WHERE id = ?", when, str(id))
        self._images[id] = replace(self._images[id], tagged=when)

    def drop(self, target: Descriptor, manifests: Iterable[str]) -> None:
        """Give up some manifests of an index: their content is needed by it no longer."""
        gone = set(manifests)
        with self._database.transaction():
            for manifest in gone:
                self._database.execute("INSERT OR IGNORE INTO images_dropped VALUES (?)", manifest)
        self.dropped |= gone
        self._refresh(target)

    def unname(self, reference: str) -> None:
        self._database.execute("DELETE FROM image_references WHERE reference = ?", reference)
        self._names_of[self._names.pop(reference)].discard(reference)
        self._let_go(self._targets.pop(reference))

    def hide(self, id: Digest) -> None:
        """The image is gone for users; its containers can still start."""
        self._database.execute("UPDATE images SET hidden = 1 WHERE id = ?", str(id))
        self._images[id] = replace(self._images[id], hidden=True)

    def delete(self, id: Digest) -> None:
        """Forget an image and its names."""
        self._database.execute("DELETE FROM images WHERE id = ?", str(id))
        for reference in self._names_of.pop(id, set()):
            del self._names[reference]
            self._let_go(self._targets.pop(reference))
        self._forget(id)

    def forget_damaged(self, id: str) -> None:
        """Delete an image whose config is gone, and its names. Twice is fine."""
        self._database.execute("DELETE FROM images WHERE id = ?", id)
        self.damaged = [each for each in self.damaged if each != id]

    def _store_name(self, reference: str, id: Digest, target: Descriptor) -> None:
        self._database.execute(
            "INSERT INTO image_references (reference, image, target) VALUES (?, ?, ?)"
            " ON CONFLICT (reference) DO UPDATE SET image = excluded.image, target = excluded.target",
            reference,
            str(id),
            msgspec.json.encode(target).decode(),
        )

    def _stored_target(self, row: dict[str, object], id: Digest) -> Descriptor:
        """Names that were given before there were targets stand for the manifest."""
        text = str(row["target"])
        return msgspec.json.decode(text, type=Descriptor) if text else self._images[id].manifest

    def _name(self, reference: str, id: Digest, target: Descriptor) -> tuple[str, Digest] | None:
        before = self._names.get(reference)
        if before is not None:
            self._names_of[before].discard(reference)
        self._hold(target)
        if reference in self._targets:
            self._let_go(self._targets[reference])
        self._names[reference] = id
        self._targets[reference] = target
        self._names_of[id].add(reference)
        return (reference, before) if before not in (None, id) else None

    def _hold(self, target: Descriptor) -> None:
        names, parts = self._held.get(target.blob, (0, frozenset[Digest]()))
        if not names:
            parts = closure(target, self._content, self.dropped)
            self._blobs.update(parts)
        self._held[target.blob] = (names + 1, parts)

    def _let_go(self, target: Descriptor) -> None:
        names, parts = self._held[target.blob]
        if names > 1:
            self._held[target.blob] = (names - 1, parts)
            return
        del self._held[target.blob]
        self._blobs.subtract(parts)

    def _refresh(self, target: Descriptor) -> None:
        """Look again what a target is made of: documents that were missing have come, or some were given up."""
        if target.blob in self._held:
            names, old = self._held[target.blob]
            parts = closure(target, self._content, self.dropped)
            self._blobs.update(parts)
            self._blobs.subtract(old)
            self._held[target.blob] = (names, parts)

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
        tagged=str(row["tagged"]),
    )
