"""Webhooks: events in distribution's envelope, sent to each endpoint in order and again until it takes them.

https://distribution.github.io/distribution/about/notifications/. What is not delivered when the registry ends is lost,
as with distribution.
"""

import asyncio
import json
import logging
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp

from longshore.registry.server.calls import Happening
from longshore.registry.server.settings import Endpoint

log = logging.getLogger("longshore.registry.server")
MEDIA_TYPE = "application/vnd.docker.distribution.events.v2+json"
_QUEUE = 10_000  # events that wait for one endpoint; the oldest go first
Count = Callable[..., None]


def make_event(happening: Happening, source: str, instance: str) -> dict[str, Any]:
    """One event as distribution has it. Empty fields are left out."""
    request, path = happening.request, f"/v2/{happening.repository}"
    kind = (
        "manifests"
        if happening.tag or "manifest" in happening.media_type or "index" in happening.media_type
        else "blobs"
    )
    target: dict[str, Any] = {
        "mediaType": happening.media_type,
        "size": happening.size,
        "digest": happening.digest,
        "length": happening.size,
        "repository": happening.repository,
        "fromRepository": happening.source,
        "url": f"{request.scheme}://{request.host}{path}/{kind}/{happening.digest}",
        "tag": happening.tag,
    }
    if happening.action == "delete":
        target.pop("url")
    return {
        "id": str(uuid.uuid4()),
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "action": happening.action,
        "target": {name: value for name, value in target.items() if value},
        "request": {
            "id": str(uuid.uuid4()),
            "addr": request.remote or "",
            "host": request.host,
            "method": request.method,
            "useragent": request.headers.get("User-Agent", "")[:200],
        },
        "actor": {"name": happening.actor} if happening.actor else {},
        "source": {"addr": source, "instanceID": instance},
    }


class _Queue:
    """One endpoint: its events, and the task that sends them one by one."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession, count: Count) -> None:
        self._endpoint, self._session, self._count = endpoint, session, count
        self._events: deque[dict[str, Any]] = deque(maxlen=_QUEUE)
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.task = asyncio.create_task(self._run())

    def wants(self, event: dict[str, Any]) -> bool:
        ignore = self._endpoint.ignore
        kinds = {*ignore.mediatypes, *self._endpoint.ignoredmediatypes}
        return event["action"] not in ignore.actions and event["target"].get("mediaType") not in kinds

    def put(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        self._idle.clear()
        self._more.set()

    async def drained(self) -> None:
        await self._idle.wait()

    async def _run(self) -> None:
        failures = 0
        while True:
            if not self._events:
                self._idle.set()
                self._more.clear()
                await self._more.wait()
            event = self._events[0]
            if await self._send(event):
                failures = 0
                if self._events and self._events[0] is event:
                    self._events.popleft()
                continue
            failures += 1
            # distribution's rule: at once up to the threshold, then one try per backoff
            await asyncio.sleep(
                float(self._endpoint.backoff) if failures >= self._endpoint.threshold else 0.1
            )

    async def _send(self, event: dict[str, Any]) -> bool:
        headers = {"Content-Type": MEDIA_TYPE}
        headers |= {name: ", ".join(values) for name, values in self._endpoint.headers.items()}
        timeout = aiohttp.ClientTimeout(total=float(self._endpoint.timeout))
        try:
            async with self._session.post(
                self._endpoint.url,
                data=json.dumps({"events": [event]}).encode(),
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                good = 200 <= answer.status < 400
                why = f"it answers {answer.status}"
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            good, why = False, str(error) or type(error).__name__
        self._count(
            "registry_notifications_total",
            endpoint=self._endpoint.name,
            result="success" if good else "failure",
        )
        if not good:
            log.warning("notifications endpoint %s did not take an event: %s", self._endpoint.name, why)
        return good


class Notifier:
    """Takes happenings without waiting for anybody."""

    def __init__(self, endpoints: list[Endpoint], address: str, count: Count) -> None:
        self._session = aiohttp.ClientSession(headers={"User-Agent": "longshore-registry"})
        self._queues = [_Queue(each, self._session, count) for each in endpoints if not each.disabled]
        self._source = f"{socket.gethostname()}:{address.rpartition(':')[2]}"
        self._instance = str(uuid.UUID(bytes=os.urandom(16), version=4))

    def tell(self, happening: Happening) -> None:
        if not self._queues:
            return
        event = make_event(happening, self._source, self._instance)
        for queue in self._queues:
            if queue.wants(event):
                queue.put(event)

    async def close(self, grace: float) -> None:
        """Give what waits `grace` seconds."""
        until = time.monotonic() + grace
        for queue in self._queues:
            try:
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    await queue.drained()
            except TimeoutError:
                log.warning("some events were not delivered")
            queue.task.cancel()
        if self._queues:
            await asyncio.wait([queue.task for queue in self._queues])
        await self._session.close()
