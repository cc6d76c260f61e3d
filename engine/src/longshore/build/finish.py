"""The last steps of a build, which no instruction stands for: labels of the request, squashing, the configuration."""

import asyncio

import msgspec

from longshore.build import chain
from longshore.build.chain import Snapshot
from longshore.build.result import Built
from longshore.build.squash import write_squashed
from longshore.build.work import Work
from longshore.core.images.model import Layer
from longshore.errors import InvalidArgument
from longshore.oci.changes import DEFAULT_SHELL
from longshore.oci.image_config import parse_image_config
from longshore.storage.layers import EMPTY_LAYER


async def finished(work: Work, snapshot: Snapshot) -> Built:
    """The image as a value. Raises InvalidArgument when there is nothing in it."""
    if work.options.labels:
        snapshot = _labelled(work, snapshot)
    if snapshot.empty:
        raise InvalidArgument("No image was generated. Is your Dockerfile empty?")
    if work.options.squash:
        snapshot = await _squashed(work, snapshot)
    raw = snapshot.encoded()
    platform = str(snapshot.platform)
    return Built(platform, raw, parse_image_config(raw), snapshot.layers, snapshot.base)


def _labelled(work: Work, snapshot: Snapshot) -> Snapshot:
    labels = dict(work.options.labels)
    config = msgspec.structs.replace(snapshot.config, labels={**(snapshot.config.labels or {}), **labels})
    text = "LABEL " + " ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    created_by = f"{' '.join(DEFAULT_SHELL)} #(nop)  {text}"
    shape = snapshot.next_shape(config, created_by, None)
    moment = "" if work.options.no_cache or work.epoch is not None else work.workshop.cache.moment(shape)
    if not moment:
        moment = work.moments[shape] = work.now()
    return snapshot.after(config, created_by, None, moment)


async def _squashed(work: Work, snapshot: Snapshot) -> Snapshot:
    """One layer for all that stands above the base image."""
    images = work.workshop.engine.images
    base = images.get(str(snapshot.base)).layers if snapshot.base else ()
    above = snapshot.layers[len(base) :]
    if len(above) < 2:
        return snapshot
    folders = [images.layers.directory / images.layers.name(layer.diff_id) for layer in reversed(above)]
    below = work.tree(Snapshot(snapshot.platform, layers=base))
    descriptor, diff_id = await asyncio.to_thread(
        images.layers.commit_tar, lambda write: write_squashed(folders, below, write)
    )
    layer = Layer(descriptor, diff_id, images.layers.size(diff_id)) if diff_id != EMPTY_LAYER else None
    return chain.squashed(snapshot, base, layer)
