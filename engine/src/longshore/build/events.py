"""What a build tells while it runs, as values; each door renders them in its own form.

Order: `Planned` once; then for every step `Started`, any number of `Output` and `Transfer`, and one of `Done`, `Cached`
or `Failed`. Steps of independent stages interleave. `Planned` has the instructions of the Dockerfile that the target
needs, in the order of the file; work besides them (pulling a base image, reading the context, exporting) appears as a
step of its own with `number` 0. Times are seconds since 1970.
"""

import time
from dataclasses import dataclass, field

from longshore.errors import EngineError

STDOUT, STDERR = 1, 2


@dataclass(frozen=True, slots=True)
class Step:
    """One vertex of the build's graph."""

    id: str  # "sha256:…", unique within the build; equal for an equal step of an equal Dockerfile
    name: str  # "[build 2/5] RUN make", "[internal] load build context"
    inputs: tuple[str, ...] = ()  # ids of steps whose result it uses
    number: int = (
        0  # 1…total: place among all instructions of `Planned`; 0 for work that no instruction stands for
    )
    total: int = 0
    instruction: str = ""  # "RUN make", in one line
    stage: str = ""  # its name, or its number as text
    line: int = 0  # of the Dockerfile, from 1
    files: bool = True  # it may change files; False for ENV, CMD … which BuildKit does not show


@dataclass(frozen=True, slots=True)
class Planned:
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Started:
    step: Step
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Running:
    """A RUN has got its container."""

    step: str  # Step.id
    container: str  # id


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that a RUN wrote, as they came; they may end within a character."""

    step: str  # Step.id
    stream: int  # STDOUT or STDERR
    data: bytes
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far something is that has a size: a layer being pulled, a file fetched, the context, an export."""

    step: str  # Step.id
    name: str  # what: "sha256:…" of a layer, a URL, "transferring context"; one row for each
    action: str  # "Pulling fs layer", "Downloading", "Extracting", "Pull complete", "done" …
    current: int = 0
    total: int = 0  # 0: unknown
    done: bool = False
    message: dict[str, object] | None = None  # Docker's own progress message, where it came from a pull
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Cached:
    """The result of the step was there: it ends here, and nothing was run."""

    step: str  # Step.id
    image: str = ""  # id of the image as it stands after the step
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Done:
    step: str  # Step.id
    image: str = ""  # id of the image as it stands after the step; "" for steps that give none
    container: str = ""  # id of the container that RUN has used and that is gone now
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Failed:
    """The step ended the build; `Build.run` raises the same error afterwards."""

    step: str  # Step.id
    error: EngineError
    excerpt: str = ""  # the lines of the Dockerfile around the step, for a terminal
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Warned:
    """A finding of the linter. Rules: https://docs.docker.com/reference/build-checks/."""

    rule: str  # "FromAsCasing"; "" for a remark that is no rule's
    message: str
    description: str = ""
    url: str = ""
    start: int = 0  # lines of the Dockerfile, from 1
    end: int = 0
    step: str = ""  # Step.id, where one step is meant


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the user that belongs to no step, such as which build arguments nobody used."""

    text: str


Event = Planned | Started | Running | Output | Transfer | Cached | Done | Failed | Warned | Note
