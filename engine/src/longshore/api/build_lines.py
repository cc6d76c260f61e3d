"""A build's events as the JSON lines of dockerd's classic builder ("Step 1/3 : FROM scratch"). Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from longshore.build.events import (
    STDERR,
    Cached,
    Done,
    Event,
    Failed,
    Note,
    Output,
    Planned,
    Running,
    Started,
    Transfer,
)
from longshore.core.images.model import Image
from longshore.oci.digest import parse_digest
from longshore.oci.reference import parse_reference

Line = Mapping[str, object]
_RED, _RESET = "\x1b[91m", "\x1b[0m"


class ClassicLines:
    """Puts the steps in the order of the Dockerfile: clients know no other.

    The step whose turn it is speaks at once; what steps of other stages say meanwhile waits until theirs.
    """

    def __init__(self) -> None:
        self._order: list[str] = []  # ids of the steps that have not had their turn
        self._waiting: dict[str, list[Line]] = {}
        self._ended: set[str] = set()

    def feed(self, event: Event) -> Iterator[Line]:
        """What may be sent now."""
        if isinstance(event, Planned):
            self._order = [step.id for step in event.steps]
            self._waiting = {id: [] for id in self._order}
            return
        id = event.step.id if isinstance(event, Started) else getattr(event, "step", "")
        lines = _lines_of(event)
        if id not in self._waiting:
            yield from lines
            return
        self._waiting[id] += lines
        if isinstance(event, Done | Cached | Failed):
            self._ended.add(id)
        yield from self._due()
        if isinstance(event, Failed):  # it ends the build: what led to it must be seen
            yield from self._waiting.pop(id, [])

    def _due(self) -> Iterator[Line]:
        while self._order:
            id = self._order[0]
            yield from self._waiting.get(id, [])
            self._waiting[id] = []
            if id not in self._ended:
                return
            self._order.pop(0)
            del self._waiting[id]


def _lines_of(event: Event) -> list[Line]:
    """What one event adds to the stream; standard error is red, as clients of the classic builder know it."""
    match event:
        case Started(step) if step.number:
            return [{"stream": f"Step {step.number}/{step.total} : {step.instruction}\n"}]
        case Running():
            return [{"stream": f" ---> Running in {event.container[:12]}\n"}]
        case Output():
            text = event.data.decode(errors="replace")
            return [{"stream": f"{_RED}{text}{_RESET}" if event.stream == STDERR else text}]
        case Transfer() if event.message is not None:
            return [event.message]
        case Cached():
            return [{"stream": " ---> Using cache\n"}, {"stream": f" ---> {_short(event.image)}\n"}]
        case Done():
            gone = [{"stream": f"Removing intermediate container {event.container[:12]}\n"}]
            done = {"stream": f" ---> {_short(event.image)}\n"}
            return [*(gone if event.container else []), *([done] if event.image else [])]
        case Note():
            return [{"stream": f"{event.text}\n"}]
        case _:
            return []


def farewell(image: Image, tags: Sequence[str], *, quiet: bool) -> Iterable[Line]:
    """The end of a build that went well; a quiet one says the id alone."""
    yield {"aux": {"ID": str(image.id)}}
    if quiet:
        yield {"stream": f"{image.id}\n"}
        return
    yield {"stream": f"Successfully built {image.id.short}\n"}
    for tag in tags:
        yield {"stream": f"Successfully tagged {parse_reference(tag).with_default_tag().familiar}\n"}


def _short(image: str) -> str:
    return parse_digest(image).short if image else ""
