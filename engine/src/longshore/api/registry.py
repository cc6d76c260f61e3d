"""What a registry is asked without a pull: is this login good, what does it have under a name."""

import msgspec

from longshore.api.http import AnyReply, Reply, Request, Route
from longshore.registry.auth import Credentials, decode_auth_header


async def auth(request: Request) -> AnyReply:
    """The body is a login; 401 when its registry refuses it."""
    await request.engine.images.transfer.login(await request.json(Credentials))
    return Reply(body={"Status": "Login Succeeded", "IdentityToken": ""})


async def distribution(request: Request) -> AnyReply:
    """Digest and platforms of an image in its registry."""
    login = decode_auth_header(request.headers.get("X-Registry-Auth", ""))
    found = await request.engine.images.transfer.describe(request.parameters["name"], login)
    descriptor = found.descriptor
    view = {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
    return Reply(
        body={
            "Descriptor": view,
            "Platforms": [msgspec.to_builtins(platform) for platform in found.platforms],
        }
    )


ROUTES = [
    Route("POST", "/auth", auth),
    Route("GET", "/distribution/{name:path}/json", distribution),
]
