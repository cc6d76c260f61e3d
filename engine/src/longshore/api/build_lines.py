"""A build's events as the JSON lines of dockerd's classic builder ("Step 1/3 : FROM scratch"). Pure."""

from collections.abc import Iterable, Mapping, Sequence

from longshore.build.events import STDERR, Cached, Done, Event, Note, Output, Running, Started, Transfer
from longshore.core.images import Image
from longshore.oci.digest import parse_digest
from longshore.oci.reference import parse_reference

Line = Mapping[str, object]
_RED, _RESET = "\x1b[91m", "\x1b[0m"


def classic_lines(event: Event) -> Iterable[Line]:
    """What one event adds to the stream; standard error is red, as clients of the classic builder know it."""
    match event:
        case Started(step) if step.number:
            yield {"stream": f"Step {step.number}/{step.total} : {step.instruction}\n"}
        case Running():
            yield {"stream": f" ---> Running in {event.container[:12]}\n"}
        case Output():
            text = event.data.decode(errors="replace")
            yield {"stream": f"{_RED}{text}{_RESET}" if event.stream == STDERR else text}
        case Transfer() if event.message is not None:
            yield event.message
        case Cached():
            yield {"stream": " ---> Using cache\n"}
            yield {"stream": f" ---> {_short(event.image)}\n"}
        case Done():
            if event.container:
                yield {"stream": f"Removing intermediate container {event.container[:12]}\n"}
            yield {"stream": f" ---> {_short(event.image)}\n"}
        case Note():
            yield {"stream": f"{event.text}\n"}
        case _:
            pass


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
