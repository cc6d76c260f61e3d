"""Filters of the image list and of prune, the history table, and what images share. Pure."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from longshore.core.images.model import Image
from longshore.errors import InvalidArgument
from longshore.oci.digest import Digest
from longshore.oci.reference import parse_reference

_TRUE, _FALSE = (
    frozenset({"1", "true", "t", "True", "TRUE"}),
    frozenset({"0", "false", "f", "False", "FALSE"}),
)
_LIST = frozenset({"dangling", "label", "label!", "before", "since", "reference", "until"})
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def filter_images(
    images: Sequence[Image], filters: Mapping[str, Sequence[str]], find: Callable[[str], Image], now: datetime
) -> list[Image]:
    """The images that fit all filters, in the given order. Raises InvalidArgument, NotFound (before, since)."""
    if unknown := set(filters) - _LIST:
        raise InvalidArgument(f"invalid filter '{min(unknown)}'")
    chosen = list(images)
    if filters.get("dangling"):
        wanted = truth("dangling", filters["dangling"])
        chosen = [image for image in chosen if (not image.tags) == wanted]
    for name in filters.get("before", ()):
        limit = find(name).created
        chosen = [image for image in chosen if image.created < limit]
    for name in filters.get("since", ()):
        limit = find(name).created
        chosen = [image for image in chosen if image.created > limit]
    if filters.get("until"):
        chosen = [image for image in chosen if before(image, filters["until"], now)]
    chosen = [image for image in chosen if has_labels(image, filters)]
    if patterns := filters.get("reference"):
        chosen = [shown for image in chosen if (shown := _matching_names(image, patterns))]
    return chosen


def truth(name: str, values: Sequence[str]) -> bool:
    """The one boolean of a filter. Raises InvalidArgument for none or several."""
    if len(values) == 1 and values[0] in _TRUE | _FALSE:
        return values[0] in _TRUE
    raise InvalidArgument(f"invalid filter '{name}={list(values)}'")


def has_labels(image: Image, filters: Mapping[str, Sequence[str]]) -> bool:
    """All of `label`, none of `label!`; "key" or "key=value"."""
    labels = image.config.defaults.labels or {}

    def fits(wanted: str) -> bool:
        key, equals, value = wanted.partition("=")
        return key in labels and (not equals or labels[key] == value)

    return all(map(fits, filters.get("label", ()))) and not any(map(fits, filters.get("label!", ())))


def before(image: Image, until: Sequence[str], now: datetime) -> bool:
    """Whether the image was created before all limits: a duration ago, a Unix time or an RFC 3339 time."""
    return all(parse_time(image.created) < _limit(text, now) for text in until)


def _limit(text: str, now: datetime) -> datetime:
    pieces: list[tuple[str, str]] = _DURATION.findall(text)
    if pieces and "".join(number + unit for number, unit in pieces) == text:
        return now - timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in pieces))
    try:
        return (
            datetime.fromtimestamp(float(text), UTC)
            if text[:1].isdigit() and "-" not in text
            else parse(text)
        )
    except (ValueError, OverflowError) as cause:
        raise InvalidArgument(f"invalid filter 'until={text[:50]}'") from cause


def parse(text: str) -> datetime:
    """RFC 3339. Go writes up to nine digits of a second, Python reads six. Raises ValueError."""
    value = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def parse_time(text: str) -> datetime:
    """Like `parse`; the beginning of time where an image does not say."""
    try:
        return parse(text)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def _matching_names(image: Image, patterns: Sequence[str]) -> Image | None:
    """The image with only those names that a pattern fits; None when there are none."""
    tags = tuple(name for name in image.tags if any(_fits(pattern, name) for pattern in patterns))
    digests = tuple(name for name in image.digests if any(_fits(pattern, name) for pattern in patterns))
    return replace(image, tags=tags, digests=digests) if tags or digests else None


def _fits(pattern: str, familiar: str) -> bool:
    """Go's path.Match against the whole name, or against the repository alone."""
    expression = _glob(pattern)
    return any(expression.fullmatch(text) for text in (familiar, parse_reference(familiar).familiar_name))


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` and `?` do not cross a slash; `[…]` is a class. Raises InvalidArgument."""
    parts = {"*": "[^/]*", "?": "[^/]"}
    text, position = "", 0
    while position < len(pattern):
        char = pattern[position]
        end = pattern.find("]", position + 2) if char == "[" else -1
        if end > 0:
            body = pattern[position + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            text, position = text + f"[{body}]", end + 1
            continue
        text, position = text + parts.get(char, re.escape(char)), position + 1
    try:
        return re.compile(text)
    except re.error as cause:
        raise InvalidArgument(f"invalid filter 'reference={pattern[:100]}'") from cause


def history_of(image: Image, find: Callable[[Digest], Image | None]) -> list[dict[str, object]]:
    """Docker's history table, newest first. Ids are known only of the image itself and of parents made here."""
    rows: list[dict[str, object]] = []
    layers = list(image.layers)
    for step in image.config.history or ():
        size = 0 if step.empty_layer or not layers else layers.pop(0).size
        rows.insert(
            0,
            {
                "Id": "<missing>",
                "Created": int(parse_time(step.created).timestamp()),
                "CreatedBy": step.created_by,
                "Tags": None,
                "Size": size,
                "Comment": step.comment,
            },
        )
    current: Image | None = image
    for row in rows:
        if current is None:
            break
        row["Id"], row["Tags"] = str(current.id), list(current.tags) or None
        current = find(current.parent) if current.parent else None
    return rows


def shared_sizes(images: Sequence[Image]) -> dict[str, int]:
    """By image id: bytes of the layers that another image has, too. Pure."""
    users = Counter(diff_id for image in images for diff_id in {layer.diff_id for layer in image.layers})
    return {
        str(image.id): sum(layer.size for layer in image.layers if users[layer.diff_id] > 1)
        for image in images
    }
