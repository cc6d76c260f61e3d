"""Questions to the frontend instead of a build (`--call`, `--print`, `--check`): outline, targets, lint."""

from longshore.api.buildkit.failures import unknown_request
from longshore.api.buildkit.jobs import Job
from longshore.api.buildkit.messages_gateway import SolveRequest
from longshore.api.buildkit.solving import Kit


async def answer(kit: Kit, job: Job, request: SolveRequest, name: str) -> dict[str, bytes]:
    """The metadata that a client prints. Raises CallFailed for a request that there is not."""
    raise unknown_request(name)
