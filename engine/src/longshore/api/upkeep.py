"""Extension: what this host lacks, what does not fit together on its disk, what takes the room, and why."""

import asyncio

from longshore.api.http import AnyReply, Reply, Request, Route


async def doctor(request: Request) -> AnyReply:
    """The machine and the storage. `deep=1` reads every blob."""
    engine = request.engine
    machine = await asyncio.to_thread(engine.doctor.examine)
    return Reply(body=[*machine, *await engine.upkeep.examine(deep=request.query.flag("deep"))])


async def repair(request: Request) -> AnyReply:
    """Mend what does not fit together; answers with what was found and what was done about each."""
    return Reply(body=await request.engine.upkeep.repair(deep=request.query.flag("deep")))


async def disk(request: Request) -> AnyReply:
    """Where every byte of the data root is; the last line is the sum."""
    return Reply(body=await request.engine.upkeep.usage())


async def why(request: Request) -> AnyReply:
    """What holds an image, a blob or a layer."""
    return Reply(body=request.engine.upkeep.reasons.why(request.parameters["name"]))


ROUTES = [
    Route("GET", "/longshore/v1/doctor", doctor),
    Route("POST", "/longshore/v1/doctor/repair", repair),
    Route("GET", "/longshore/v1/system/df", disk),
    Route("GET", "/longshore/v1/images/{name:path}/why", why),
]
