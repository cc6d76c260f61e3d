"""Volumes."""

from longshore.api.http import AnyReply, Reply, Request, Route
from longshore.api.views import volume_view
from longshore.core.model import VolumeRequest, decode


async def list_volumes(request: Request) -> AnyReply:
    found = request.engine.volumes.list(request.query.filters())
    return Reply(body={"Volumes": [volume_view(volume) for volume in found], "Warnings": None})


async def create(request: Request) -> AnyReply:
    body = decode(await request.read(), VolumeRequest)
    return Reply(201, volume_view(request.engine.volumes.create(body, anonymous=not body.name)))


async def show(request: Request) -> AnyReply:
    return Reply(body=volume_view(request.engine.volumes.get(request.parameters["name"])))


async def remove(request: Request) -> AnyReply:
    await request.engine.volumes.remove(request.parameters["name"], force=request.query.flag("force"))
    return Reply(204)


async def prune(request: Request) -> AnyReply:
    filters = request.query.filters()
    if request.version < (1, 42):
        filters = {**filters, "all": ["true"]}  # older clients mean all unused volumes
    removed, freed = await request.engine.volumes.prune(filters)
    return Reply(body={"VolumesDeleted": removed or None, "SpaceReclaimed": freed})


ROUTES = [
    Route("GET", "/volumes", list_volumes),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune),
    Route("GET", "/volumes/{name}", show),
    Route("DELETE", "/volumes/{name}", remove),
]
