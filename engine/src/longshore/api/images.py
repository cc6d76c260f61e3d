"""Images: list, inspect, history, tag, remove, prune, search."""

from typing import Any

import msgspec

from longshore.api.http import AnyReply, Query, Reply, Request, Route
from longshore.api.image_views import inspect_view, manifest_view, summary_view
from longshore.api.references import join_tag
from longshore.core.images.filters import shared_sizes, truth
from longshore.core.images.model import Image
from longshore.core.images.streams import in_thread
from longshore.errors import InvalidArgument
from longshore.oci.descriptor import Platform, decode_platform
from longshore.registry.auth import decode_auth_header

MAX_STATEMENT = 32 << 20


async def list_images(request: Request) -> AnyReply:
    """`manifests` and `shared-size` cost more, so they are asked for."""
    query, images = request.query, request.engine.images
    found = images.list(query.filters(), all=query.flag("all"))
    shared = shared_sizes(images.list()) if query.flag("shared-size") else {}
    views: list[dict[str, Any]] = []
    for image in found:
        view = summary_view(image, request.version, shared=shared.get(str(image.id), -1))
        if query.flag("manifests"):
            view["Manifests"] = await manifests(request, image, (image.tags or (str(image.id),))[0])
        views.append(view)
    return Reply(body=views)


async def manifests(request: Request, image: Image, name: str) -> list[dict[str, Any]]:
    """`Manifests` of one name of an image."""
    images = request.engine.images
    _, found = await images.variants(name)
    return [manifest_view(variant, image, images.shelf.in_use(image.id)) for variant in found]


async def inspect_image(request: Request) -> AnyReply:
    name, query, images = request.parameters["name"], request.query, request.engine.images
    platform = decode_platform(query.get("platform", ""))
    if platform and query.flag("manifests"):
        raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
    image = await images.of_platform(name, platform) if platform else images.get(name)
    view = inspect_view(image, request.version)
    descriptor = image.manifest if platform else images.target(image, name)
    view["Descriptor"] = msgspec.to_builtins(descriptor)
    if query.flag("manifests"):
        view["Manifests"] = await manifests(request, image, name)
    return Reply(body=view)


async def image_history(request: Request) -> AnyReply:
    name = request.parameters["name"]
    platform = decode_platform(request.query.get("platform", ""))
    return Reply(body=await request.engine.images.history(name, platform))


async def image_attestations(request: Request) -> AnyReply:
    """In-toto statements about an image, which came with its index; their text with `statement`."""
    query, images = request.query, request.engine.images
    wanted = query.all("type")
    if len(query.all("platform")) > 1:
        raise InvalidArgument("only one platform can be asked for at a time")
    platform = decode_platform(query.get("platform", ""))
    views: list[dict[str, Any]] = []
    for kind, descriptor in await images.attestations(request.parameters["name"], platform):
        if wanted and kind not in wanted:
            continue
        view: dict[str, Any] = {"Descriptor": msgspec.to_builtins(descriptor), "PredicateType": kind}
        if query.flag("statement"):
            view["Statement"] = _statement(
                await in_thread(images.content.read, descriptor.blob, MAX_STATEMENT)
            )
        views.append(view)
    return Reply(body=views)


def _statement(data: bytes) -> msgspec.Raw:
    """The bytes as they are, once they are known to be JSON: they become part of ours."""
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        raise InvalidArgument("an attestation is no JSON", detail=str(cause)) from cause
    return msgspec.Raw(data)


async def tag_image(request: Request) -> AnyReply:
    query = request.query
    reference = join_tag(query.get("repo", ""), query.get("tag", ""))
    request.engine.images.tag(request.parameters["name"], reference)
    return Reply(201)


def _platforms(query: Query) -> list[Platform]:
    return [platform for text in query.all("platforms") if (platform := decode_platform(text))]


async def remove_image(request: Request) -> AnyReply:
    query = request.query
    removed = await request.engine.images.remove(
        request.parameters["name"],
        force=query.flag("force"),
        prune=not query.flag("noprune"),
        platforms=_platforms(query),
    )
    return Reply(body=removed)


async def prune_images(request: Request) -> AnyReply:
    removed, freed = await request.engine.images.prune(request.query.filters())
    return Reply(body={"ImagesDeleted": removed or None, "SpaceReclaimed": freed})


_SEARCHED = frozenset({"is-automated", "is-official", "stars"})


async def search_images(request: Request) -> AnyReply:
    """Docker Hub, or the catalogue of the registry that the term begins with."""
    query, filters = request.query, request.query.filters()
    term = query.get("term", "")
    if not term:
        raise InvalidArgument("no search term given")
    if term.startswith(("http://", "https://")):
        raise InvalidArgument(
            "invalid repository name", detail=f"repository name ({term[:200]}) should not have a scheme"
        )
    limit = query.integer("limit") or 25
    if not 1 <= limit <= 100:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, 100]")
    if unknown := set(filters) - _SEARCHED:
        raise InvalidArgument(f"invalid filter '{min(unknown)}'")
    auth = decode_auth_header(request.headers.get("X-Registry-Auth", ""))
    stars = [_stars(text) for text in filters.get("stars", ())]
    wanted = {
        name: truth(name, filters[name]) for name in ("is-official", "is-automated") if filters.get(name)
    }
    found = await request.engine.images.transfer.search(term, limit=limit, auth=auth)
    return Reply(
        body=[
            one
            for one in found
            if all(one.star_count >= least for least in stars)
            and wanted.get("is-official", one.is_official) == one.is_official
            and wanted.get("is-automated", one.is_automated) == one.is_automated
        ]
    )


def _stars(text: str) -> int:
    if not text.isdigit():
        raise InvalidArgument(f"invalid filter 'stars={text[:50]}'")
    return int(text)


ROUTES = [
    Route("GET", "/images/json", list_images),
    Route("POST", "/images/prune", prune_images),
    Route("GET", "/images/search", search_images),
    Route("GET", "/images/{name:path}/json", inspect_image),
    Route("GET", "/images/{name:path}/history", image_history),
    Route("GET", "/images/{name:path}/attestations", image_attestations),
    Route("POST", "/images/{name:path}/tag", tag_image),
    Route("DELETE", "/images/{name:path}", remove_image),
]
