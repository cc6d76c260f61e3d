"""--cache-from with an image's name: its history tells which steps it was made of. Pure."""

from dataclasses import dataclass

from longshore.build.chain import Snapshot
from longshore.core.images.model import Image
from longshore.core.images.model import Layer


@dataclass(frozen=True, slots=True)
class Next:
    """What an image has after the steps so far. `layer` None: the step only configured."""

    layer: Layer | None


def next_of_image(image: Image, state: Snapshot, created_by: str) -> Next | None:
    """The step of the image that follows `state`; None when the image was made in another way."""
    history = image.config.history or []
    number, below = len(state.history), len(state.layers)
    if len(history) <= number or history[number].created_by != created_by:
        return None
    if any(a.created_by != b.created_by for a, b in zip(history, state.history, strict=False)):
        return None
    if [layer.diff_id for layer in image.layers[:below]] != [layer.diff_id for layer in state.layers]:
        return None
    if history[number].empty_layer:
        return Next(None)
    return Next(image.layers[below]) if len(image.layers) > below else None
