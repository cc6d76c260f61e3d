"""`longshore doctor --repair`: what can be done about each finding of `storage_check`, and doing it. Twice is fine."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from longshore.core.disk_usage import Share, usage
from longshore.core.doctor import Check
from longshore.core.images.facade import Images
from longshore.core.images.model import Image
from longshore.core.images.why import Reasons
from longshore.core.storage_check import Finding, Picture, Repair, Stores, find, summary
from longshore.errors import EngineError, NotFound
from longshore.oci.descriptor import OCI_CONFIG, Descriptor
from longshore.oci.digest import Digest, parse_digest
from longshore.oci.manifest import build_manifest

REPAIR_HINT = "longshore doctor --repair: "


@dataclass(frozen=True, slots=True)
class Mended:
    """What was found, what was done about it, or why it could not be."""

    what: str
    done: str = ""
    error: str = ""


class Upkeep:
    """Call from the event loop. `containers`: ids of all containers."""

    def __init__(
        self,
        root: Path,
        images: Images,
        stores: Stores,
        containers: Callable[[], Iterable[str]],
        reasons: Reasons,
    ) -> None:
        self.reasons = reasons
        self._root, self._images, self._stores = root, images, stores
        self._containers = containers
        self._mending = asyncio.Lock()

    def _picture(self) -> Picture:
        catalog = self._stores.catalog
        return Picture(
            images=[*catalog.all(), *catalog.hidden()],
            damaged=tuple(catalog.damaged),
            containers=frozenset(self._containers()),
        )

    async def examine(self, *, deep: bool = False) -> list[Check]:
        """One check that all is well, or one for each finding."""
        picture = self._picture()
        found = await asyncio.to_thread(find, self._stores, picture, deep=deep)
        if not found:
            return [Check("storage", "ok", await asyncio.to_thread(summary, self._stores, picture))]
        return [
            Check("storage", "fail" if finding.grave else "warn", finding.what, _hint(finding))
            for finding in found
        ]

    async def usage(self) -> list[Share]:
        """Where every byte of the data root is."""
        return await asyncio.to_thread(usage, self._root, self._stores)

    async def repair(self, *, deep: bool = False) -> list[Mended]:
        """Mend what can be mended: again and again, since one repair may show the next fault."""
        done: dict[tuple[Repair, str, str], Mended] = {}
        async with self._mending:
            for _ in range(4):
                found = await asyncio.to_thread(find, self._stores, self._picture(), deep=deep)
                fresh = [each for each in found if (each.repair, each.subject, each.image) not in done]
                if not fresh:
                    break
                for finding in fresh:
                    done[finding.repair, finding.subject, finding.image] = await self._mend(finding)
            await self._images.shelf.collect()
        return list(done.values())

    async def _mend(self, finding: Finding) -> Mended:
        try:
            return Mended(finding.what, done=await self._act(finding))
        except (EngineError, OSError) as error:
            return Mended(finding.what, error=str(error))

    async def _act(self, finding: Finding) -> str:
        stores = self._stores
        match finding.repair:
            case Repair.FORGET_IMAGE:
                stores.catalog.forget_damaged(finding.subject)
            case Repair.RESTORE_BLOB:
                return await self._restore(parse_digest(finding.subject), self._image(finding))
            case Repair.UNPACK:
                await self._images.ensure_unpacked(self._image(finding))
            case Repair.DELETE_BLOB:
                await asyncio.to_thread(stores.content.delete, parse_digest(finding.subject))
            case Repair.DELETE_LAYER:
                await asyncio.to_thread(stores.layers.delete, parse_digest(finding.subject))
            case Repair.DELETE_SNAPSHOT:
                await asyncio.to_thread(stores.snapshots.remove, finding.subject)
            case Repair.NONE:
                raise NotFound("nothing can be done about it", hint=Repair.NONE.value)
        return finding.repair.value

    def _image(self, finding: Finding) -> Image:
        image = self._stores.catalog.by_id(parse_digest(finding.image))
        if image is None:
            raise NotFound("the image is gone meanwhile")
        return image

    async def _restore(self, digest: Digest, image: Image) -> str:
        """A config is in memory, a manifest of ours and a layer of ours come out the same when made again.

        Else the image stays, since its containers may still run, or goes when nothing of the layer is left.
        Raises NotFound telling to pull it again.
        """
        content, layers = self._stores.content, self._stores.layers
        if digest in (image.id, image.config_blob):
            await asyncio.to_thread(content.put, image.raw_config, digest)
            return "the config was written again"
        if digest == image.manifest.blob:
            config = Descriptor(OCI_CONFIG, str(image.id), len(image.raw_config))
            manifest = build_manifest(config, [layer.descriptor for layer in image.layers])
            await asyncio.to_thread(content.put, manifest, digest)
            return "the manifest was written again"
        for layer in image.layers:
            if layer.descriptor.blob == digest and layers.has(layer.diff_id):
                with content.lease("doctor --repair"):
                    made, _ = await asyncio.to_thread(
                        layers.commit_upper, layers.directory / layers.name(layer.diff_id)
                    )
                if made.blob == digest:
                    return "the layer was packed again"
        name = image.tags[0] if image.tags else image.id.short
        usable = all(layers.has(layer.diff_id) for layer in image.layers)
        if usable or self._images.shelf.in_use(image.id):
            raise NotFound("it can run, but not be saved or pushed", hint=f"longshore pull {name}")
        self._stores.catalog.delete(image.id)
        return f"the image was forgotten; longshore pull {name}"


def _hint(finding: Finding) -> str:
    return finding.repair.value if finding.repair is Repair.NONE else REPAIR_HINT + finding.repair.value
