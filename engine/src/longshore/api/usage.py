"""What takes room on the disk: GET /system/df."""

from collections import Counter
from typing import Any

from longshore.api.buildkit.contexts import contexts_of
from longshore.api.containers import image_name
from longshore.api.http import AnyReply, Reply, Request, Route
from longshore.api.image_views import summary_view
from longshore.api.views import summary, volume_view
from longshore.build.usage import usage
from longshore.build.workshop import workshop_of
from longshore.core.images.filters import shared_sizes
from longshore.core.images.model import Image
from longshore.errors import InvalidArgument

TYPES = ("container", "image", "volume", "build-cache")


async def disk_usage(request: Request) -> AnyReply:
    """Since 1.42 `type`, which may come several times, narrows it."""
    wanted = request.query.all("type") or list(TYPES)
    for name in wanted:
        if name not in TYPES:
            raise InvalidArgument(f"unknown object type: {name}", hint=f"one of {', '.join(TYPES)}")
    images = request.engine.images.list(all=True)
    view: dict[str, Any] = {"LayersSize": layers_size(images) if "image" in wanted else 0}
    view["Images"] = _images(request, images) if "image" in wanted else None
    view["Containers"] = await _containers(request) if "container" in wanted else None
    view["Volumes"] = await _volumes(request) if "volume" in wanted else None
    view["BuildCache"] = None
    if "build-cache" in wanted:
        entries = [*await usage(workshop_of(request.engine)), *contexts_of(request.engine).usage()]
        view["BuildCache"] = [entry.view() for entry in entries]
        if request.version < (1, 42):
            view["BuilderSize"] = sum(entry.size for entry in entries)
    return Reply(body=view)


def layers_size(images: list[Image]) -> int:
    """Bytes of all layers, each counted once. Pure."""
    return sum({layer.diff_id: layer.size for image in images for layer in image.layers}.values())


def _images(request: Request, images: list[Image]) -> list[dict[str, Any]]:
    """Those of a plain list: steps of builds count for what is shared, and are not shown."""
    shared = shared_sizes(images)
    used = Counter(container.record.image_id for container in request.engine.containers.list(all=True))
    return [
        summary_view(image, request.version, used[str(image.id)], shared[str(image.id)])
        for image in request.engine.images.list()
    ]


async def _containers(request: Request) -> list[dict[str, Any]]:
    containers = request.engine.containers
    return [
        summary(container, image_name(request, container), await containers.sizes(container))
        for container in containers.list(all=True)
    ]


async def _volumes(request: Request) -> list[dict[str, Any]]:
    volumes = request.engine.volumes
    return [
        volume_view(volume, (await volumes.size(volume.name), len(volumes.users(volume.name))))
        for volume in volumes.list()
    ]


ROUTES = [Route("GET", "/system/df", disk_usage)]
