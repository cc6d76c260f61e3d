"""What earlier builds have made: layers by the key of the step that made them.

A key names everything a step depends on: the digests of the files it stands on, the command or the contents that are
copied, environment, user, mounts. Nothing enters but what a build here has made, or what the user names by
--cache-from; the configuration of an image never comes from here. So an image that was pulled or loaded cannot poison
a build (CVE-2024-24557).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from longshore.core.database import Database
from longshore.core.images.facade import Images
from longshore.core.images.model import Layer
from longshore.oci.descriptor import Descriptor
from longshore.oci.digest import Digest, parse_digest

SCHEMA = [
    "CREATE TABLE build_cache (key TEXT PRIMARY KEY, image_id TEXT NOT NULL, used REAL NOT NULL)",
    """
    DROP TABLE build_cache;
    CREATE TABLE build_layers (
        key TEXT PRIMARY KEY, parent TEXT NOT NULL, kind TEXT NOT NULL, description TEXT NOT NULL,
        descriptor TEXT NOT NULL, diff_id TEXT NOT NULL, size INTEGER NOT NULL, moment TEXT NOT NULL,
        created REAL NOT NULL, used REAL NOT NULL, uses INTEGER NOT NULL
    );
    CREATE TABLE build_moments (shape TEXT PRIMARY KEY, moment TEXT NOT NULL, used REAL NOT NULL)
    """,
]
MOMENTS = 20_000  # times of steps that only configured are kept for this many steps

Kind = Literal["regular", "source.local", "exec.cachemount"]


@dataclass(frozen=True, slots=True)
class Record:
    """One cached layer. `layer` None: the step changed no file."""

    key: str
    parent: str
    kind: str
    description: str
    layer: Layer | None
    moment: str  # RFC 3339: the time in the history of images that have it
    created: float  # seconds since 1970, as `used`
    used: float
    uses: int


class Cache:
    """Used from the event loop; `uses_blob` and `uses_layer` may be asked from any thread."""

    def __init__(self, database: Database, images: Images) -> None:
        database.migrate("build", SCHEMA)
        self._database, self._images = database, images
        self._records: dict[str, Record] = {}
        self._blobs: Counter[Digest] = Counter()
        self._layers: Counter[Digest] = Counter()
        self._busy: Counter[str] = Counter()
        for row in database.all("SELECT * FROM build_layers"):
            self._keep(_from_row(row))

    # Who needs what: Images asks before it removes anything

    def uses_blob(self, digest: Digest) -> bool:
        return self._blobs[digest] > 0

    def uses_layer(self, diff_id: Digest) -> bool:
        return self._layers[diff_id] > 0

    # Looking up

    def find(self, key: str) -> Record | None:
        """The layer a step gave, if it is all there."""
        record = self._records.get(key)
        if record is None:
            return None
        layer = record.layer
        if layer is not None and not self._there(layer):
            self._forget(record)
            return None
        self._keep(replace(record, used=time.time(), uses=record.uses + 1))
        return self._records[key]

    def _there(self, layer: Layer) -> bool:
        images = self._images
        return images.content.has(layer.descriptor.blob) and images.layers.has(layer.diff_id)

    def remember(self, record: Record) -> None:
        """Keep a layer from now on; the newest of a key counts."""
        layer = record.layer
        self._keep(record)
        self._database.execute(
            "INSERT OR REPLACE INTO build_layers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            record.key,
            record.parent,
            record.kind,
            record.description[:4096],
            msgspec.json.encode(layer.descriptor).decode() if layer else "",
            str(layer.diff_id) if layer else "",
            layer.size if layer else 0,
            record.moment,
            record.created,
            record.used,
            record.uses,
        )

    def moment(self, shape: str) -> str:
        """When a step that only configured was first taken; "" when it never was."""
        row = self._database.one("SELECT moment FROM build_moments WHERE shape = ?", shape)
        return str(row["moment"]) if row else ""

    def settle(self, moments: dict[str, str], used: Iterable[str]) -> None:
        """At the end of a build, in one go: the times of new steps, and which layers were of use."""
        now = time.time()
        with self._database.transaction():
            for shape, moment in moments.items():
                self._database.execute("INSERT OR REPLACE INTO build_moments VALUES (?, ?, ?)", shape, moment, now)
            for key in used:
                if record := self._records.get(key):
                    self._database.execute(
                        "UPDATE build_layers SET used = ?, uses = ? WHERE key = ?", record.used, record.uses, key
                    )
            if moments:
                self._trim()

    def _trim(self) -> None:
        row = self._database.one("SELECT count(*) AS total FROM build_moments")
        if row and int(str(row["total"])) > 2 * MOMENTS:
            self._database.execute(
                "DELETE FROM build_moments WHERE shape NOT IN"
                " (SELECT shape FROM build_moments ORDER BY used DESC LIMIT ?)",
                MOMENTS,
            )

    # For users: list and prune

    def records(self) -> list[Record]:
        """Newest first."""
        return sorted(self._records.values(), key=lambda record: record.created, reverse=True)

    def in_use(self, record: Record) -> bool:
        return self._busy[record.key] > 0

    def shared(self, record: Record) -> bool:
        """Whether an image has the layer, too."""
        return record.layer is not None and self._images.holds_layer(record.layer.diff_id)

    def borrow(self, key: str) -> Callable[[], None]:
        """A running build uses it; call the result when it no longer does."""
        self._busy[key] += 1

        def give_back() -> None:
            self._busy[key] -= 1

        return give_back

    def forget(self, records: Sequence[Record]) -> None:
        """Their layers go with the next collection, unless an image has them."""
        with self._database.transaction(urgent=True):
            for record in records:
                self._forget(record)

    def forget_moments(self) -> None:
        self._database.execute("DELETE FROM build_moments")

    def _keep(self, record: Record) -> None:
        old = self._records.get(record.key)
        if old is not None and old.layer is not None:
            self._blobs[old.layer.descriptor.blob] -= 1
            self._layers[old.layer.diff_id] -= 1
        self._records[record.key] = record
        if record.layer is not None:
            self._blobs[record.layer.descriptor.blob] += 1
            self._layers[record.layer.diff_id] += 1

    def _forget(self, record: Record) -> None:
        self._database.execute("DELETE FROM build_layers WHERE key = ?", record.key)
        found = self._records.pop(record.key, None)
        if found is not None and found.layer is not None:
            self._blobs[found.layer.descriptor.blob] -= 1
            self._layers[found.layer.diff_id] -= 1


def _from_row(row: dict[str, object]) -> Record:
    layer: Layer | None = None
    if row["diff_id"]:
        descriptor = msgspec.json.decode(str(row["descriptor"]), type=Descriptor)
        layer = Layer(descriptor, parse_digest(str(row["diff_id"])), int(str(row["size"])))
    return Record(
        key=str(row["key"]),
        parent=str(row["parent"]),
        kind=str(row["kind"]),
        description=str(row["description"]),
        layer=layer,
        moment=str(row["moment"]),
        created=float(str(row["created"])),
        used=float(str(row["used"])),
        uses=int(str(row["uses"])),
    )
