"""The history of builds, as long as the daemon runs."""

from collections.abc import AsyncIterator

from longshore.api.buildkit.jobs import Job, Jobs
from longshore.api.buildkit.messages_control import (
    COMPLETE,
    DELETED,
    STARTED,
    BuildHistoryEvent,
    BuildHistoryRecord,
    BuildHistoryRequest,
    UpdateBuildHistoryRequest,
)
from longshore.api.buildkit.wire import Timestamp
from longshore.errors import NotFound


def record(job: Job) -> BuildHistoryRecord:
    total, completed, cached = job.rendering.counts
    return BuildHistoryRecord(
        ref=job.ref,
        frontend=job.request.frontend or "dockerfile.v0",
        frontend_attrs=dict(job.attributes or job.request.frontend_attrs),
        exporters=job.request.exporters,
        error=job.error,
        created_at=Timestamp.of(job.created),
        completed_at=Timestamp.of(job.completed) if job.completed else None,
        exporter_response=job.response,
        pinned=job.pinned,
        num_cached_steps=cached,
        num_total_steps=total,
        num_completed_steps=completed,
        num_warnings=job.rendering.warnings,
    )


async def listen(jobs: Jobs, request: BuildHistoryRequest) -> AsyncIterator[BuildHistoryEvent]:
    """What is known, and unless the client wants no more what happens from now on."""
    told: dict[str, BuildHistoryRecord] = {}
    while True:
        generation = jobs.generation
        wanted = [job for job in jobs.all() if _wanted(job, request)]
        if request.limit > 0:
            wanted = wanted[-request.limit :]
        for job in wanted:
            found = record(job)
            if told.get(job.ref) != found:
                told[job.ref] = found
                yield BuildHistoryEvent(COMPLETE if job.completed else STARTED, found)
        for ref in told.keys() - {job.ref for job in jobs.all()}:
            yield BuildHistoryEvent(DELETED, told.pop(ref))
        if request.early_exit:
            return
        await jobs.wait(generation)


def update(jobs: Jobs, request: UpdateBuildHistoryRequest) -> None:
    """Pin or delete a record. Raises NotFound."""
    if request.delete:
        jobs.forget(request.ref)
        return
    for job in jobs.all():
        if job.ref == request.ref:
            job.pinned = request.pinned
            jobs.changed()
            return
    raise NotFound(f"no record of build {request.ref}")


def _wanted(job: Job, request: BuildHistoryRequest) -> bool:
    return (not request.ref or job.ref == request.ref) and not (request.active_only and job.completed)
