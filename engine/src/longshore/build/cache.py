"""What is remembered of earlier builds: which image a step gave. Only what was built here (CVE-2024-24557)."""

import time
from collections.abc import Sequence

from longshore.core.engine import Engine
from longshore.core.images import Image
from longshore.errors import NotFound

SCHEMA = ["CREATE TABLE build_cache (key TEXT PRIMARY KEY, image_id TEXT NOT NULL, used REAL NOT NULL)"]


class StepCache:
    """The cache as one build may use it. `sources`: names of images; only steps that they were made of count then."""

    def __init__(self, engine: Engine, sources: Sequence[str]) -> None:
        self._engine = engine
        self._ids = self._ancestry(sources) if sources else None

    def find(self, key: str) -> Image | None:
        row = self._engine.database.one("SELECT image_id FROM build_cache WHERE key = ?", key)
        if row is None or (self._ids is not None and str(row["image_id"]) not in self._ids):
            return None
        try:
            image = self._engine.images.get(str(row["image_id"]))
        except NotFound:
            self._engine.database.execute("DELETE FROM build_cache WHERE key = ?", key)
            return None
        self._engine.database.execute("UPDATE build_cache SET used = ? WHERE key = ?", time.time(), key)
        return image

    def remember(self, key: str, image: Image) -> None:
        self._engine.database.execute(
            "INSERT OR REPLACE INTO build_cache VALUES (?, ?, ?)", key, str(image.id), time.time()
        )

    def _ancestry(self, names: Sequence[str]) -> set[str]:
        """Ids of the images and all their parents; a name that is unknown here adds nothing."""
        found: set[str] = set()
        for name in names:
            try:
                image: Image | None = self._engine.images.get(name)
                while image is not None:
                    found.add(str(image.id))
                    image = self._engine.images.get(str(image.parent)) if image.parent else None
            except NotFound:
                continue
        return found
