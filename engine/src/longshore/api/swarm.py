"""What belongs to Docker's Swarm: this engine is never part of one, and says so as a Docker outside of one does."""

from longshore.api.http import AnyReply, Request, Route
from longshore.errors import Unavailable, Unsupported


async def no_manager(request: Request) -> AnyReply:
    """503, as from a Docker that is no manager: clients go by that status."""
    raise Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
        "swarm and try again."
    )


async def leave(request: Request) -> AnyReply:
    raise Unavailable("This node is not part of a swarm")


async def refuse(request: Request) -> AnyReply:
    raise Unsupported("Swarm mode is not served", hint="deploy to many hosts with playbooks/deploy.yml")


_MANAGED = """
GET /swarm
GET /swarm/unlockkey
POST /swarm/unlock
POST /swarm/update
GET /nodes
GET /nodes/{id}
DELETE /nodes/{id}
POST /nodes/{id}/update
GET /services
POST /services/create
GET /services/{id}
DELETE /services/{id}
POST /services/{id}/update
GET /services/{id}/logs
GET /tasks
GET /tasks/{id}
GET /tasks/{id}/logs
GET /secrets
POST /secrets/create
GET /secrets/{id}
DELETE /secrets/{id}
POST /secrets/{id}/update
GET /configs
POST /configs/create
GET /configs/{id}
DELETE /configs/{id}
POST /configs/{id}/update
"""

ROUTES = [
    Route("POST", "/swarm/init", refuse),
    Route("POST", "/swarm/join", refuse),
    Route("POST", "/swarm/leave", leave),
    *(Route(method, path, no_manager) for method, path in map(str.split, _MANAGED.split("\n")[1:-1])),
]
