"""What there is: end-1, the catalogue, tags (end-8) and referrers (end-12)."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from longshore.oci.descriptor import OCI_INDEX
from longshore.registry.server.calls import Call, json_reply
from longshore.registry.server.manifests import MAX_MANIFEST, referrer_entry
from longshore.registry.server.names import check_digest
from longshore.registry.server.refusals import Code, Refused

WHOLE = 100_000  # entries of a list that was asked for without `n`
_BATCH = 200  # referrers read at once


async def get_base(call: Call) -> web.StreamResponse:
    """end-1: this is a registry, and the client may use it."""
    return json_reply(call, {})


async def get_catalog(call: Call) -> web.StreamResponse:
    """Distribution's /v2/_catalog, pages as for tags."""
    limit = _limit(call.query, call.parts.settings.catalog.maxentries)
    last = call.query.get("last", "")
    found = call.parts.store.records.repositories(last, limit + 1)
    page = found[:limit]
    return json_reply(call, {"repositories": page}, _next_page(call, "/v2/_catalog", page, len(found), limit))


async def get_tags(call: Call) -> web.StreamResponse:
    """In ASCII order, after `last`, at most `n`."""
    limit = _limit(call.query, call.parts.settings.tags.maxtags)
    last = call.query.get("last", "")
    if call.parts.proxy is not None and (reply := await call.parts.proxy.list_tags(call)) is not None:
        return reply
    records = call.parts.store.records
    if not records.exists(call.name):
        raise Refused(Code.NAME_UNKNOWN, call.name, detail={"name": call.name})
    found = records.tags(call.name, last, limit + 1)
    page = found[:limit]
    headers = _next_page(call, f"/v2/{call.name}/tags/list", page, len(found), limit)
    return json_reply(call, {"name": call.name, "tags": page}, headers)


def _limit(query: Mapping[str, str], most: int) -> int:
    """Raises Refused for an `n` that is no number. More than `most` brings pages of `most`."""
    text = query.get("n", "")
    if "n" not in query:
        return WHOLE
    if not (text.isascii() and text.isdigit()):
        raise Refused(Code.UNSUPPORTED, f"n={text[:20]!r} is not a number of entries", status=400)
    return min(int(text[:12]), most)


def _next_page(call: Call, path: str, page: list[str], found: int, limit: int) -> dict[str, str]:
    if not page or found <= limit:
        return {}
    query = urlencode({"n": limit, "last": page[-1]})
    return {"Link": f'<{call.url(path)}?{query}>; rel="next"'}


async def get_referrers(call: Call) -> web.StreamResponse:
    """An index of all manifests whose subject has this digest; empty when there is none, never 404."""
    subject = check_digest(call.route.argument)
    if call.parts.proxy is not None and (reply := await call.parts.proxy.list_referrers(call, subject)):
        return reply
    wanted = call.query.get("artifactType", "")
    entries, more = referrers_page(call, str(subject), call.query.get("last", ""), wanted)
    headers = {"OCI-Filters-Applied": "artifactType"} if wanted else {}
    if more:
        query = urlencode({**({"artifactType": wanted} if wanted else {}), "last": entries[-1]["digest"]})
        headers["Link"] = f'<{call.url(f"/v2/{call.name}/referrers/{subject}")}?{query}>; rel="next"'
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return json_reply(call, index, headers, OCI_INDEX)


def referrers_page(call: Call, subject: str, last: str, wanted: str) -> tuple[list[dict[str, Any]], bool]:
    """(entries, whether there are more): as many as fit into one manifest's size."""
    entries: list[dict[str, Any]] = []
    size, limit = 200, min(MAX_MANIFEST, call.parts.settings.limits.referrerspage)
    while rows := call.parts.store.records.referrers(call.name, subject, last, _BATCH):
        for row in rows:
            last = row.digest
            if wanted and row.artifact_type != wanted:
                continue
            annotations = msgspec.json.decode(row.annotations) if row.annotations else None
            entry = referrer_entry(row.media_type, row.digest, row.size, row.artifact_type, annotations)
            size += len(msgspec.json.encode(entry)) + 1
            if entries and size > limit:
                return entries, True
            entries.append(entry)
    return entries, False
