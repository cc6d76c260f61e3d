"""Events of the builder as BuildKit's vertices, and attributes of the frontend as build options."""

import pytest

from longshore.api.buildkit.failures import SOURCE, explained
from longshore.api.buildkit.frontend import build_options, input_names, remote_context
from longshore.api.buildkit.gateway import definition_of
from longshore.api.buildkit.messages import Definition, Op, SourceInfo, SourceOp
from longshore.api.buildkit.messages_control import CacheOptionsEntry
from longshore.api.buildkit.solving import reference_in
from longshore.api.buildkit.status import MAX_LOG, Rendering
from longshore.build.events import Cached, Done, Failed, Output, Planned, Started, Step, Transfer, Warned
from longshore.core.model import Ulimit
from longshore.errors import InvalidArgument, Unsupported

FIRST = Step("sha256:1", "[1/2] RUN a", line=2)
SECOND = Step("sha256:2", "[2/2] COPY b", inputs=("sha256:1",), line=5)


def test_a_step_s_life() -> None:
    rendering = Rendering()
    told = rendering.take(Planned((FIRST, SECOND)))
    assert told is not None and [vertex.started for vertex in told.vertices] == [None, None]
    assert rendering.take(Started(FIRST, at=1.5)) is not None
    assert rendering.running("[1/2] RUN a") == "sha256:1"
    log = rendering.take(Output("sha256:1", 2, b"text", at=1.75))
    assert log is not None and (log.logs[0].vertex, log.logs[0].stream, log.logs[0].msg) == (
        "sha256:1",
        2,
        b"text",
    )
    done = rendering.take(Done("sha256:1", at=2.0))
    assert (
        done is not None and done.vertices[0].started is not None and done.vertices[0].completed is not None
    )
    assert (done.vertices[0].started.seconds, done.vertices[0].started.nanos) == (1, 500_000_000)
    cached = rendering.take(Cached("sha256:2", at=3.0))
    assert cached is not None and cached.vertices[0].cached and cached.vertices[0].inputs == ["sha256:1"]
    assert rendering.counts == (2, 2, 1) and rendering.running("[1/2] RUN a") == ""
    assert rendering.take(Done("sha256:2", at=4.0)) is None


def test_output_without_end_is_clipped() -> None:
    rendering = Rendering()
    rendering.take(Started(FIRST))
    sent = 0
    for _ in range(100):
        told = rendering.take(Output("sha256:1", 1, bytes(1 << 18)))
        sent += sum(len(log.msg) for log in told.logs) if told else 0
    assert MAX_LOG <= sent < MAX_LOG + 100


def test_a_pull_s_row_only_grows() -> None:
    rendering = Rendering()
    rows = [("Downloading", 50, 100), ("Downloading", 100, 100), ("Extracting", 10, 100)]
    for action, current, total in rows:
        told = rendering.take(
            Transfer("s", "layer", action, message={"progressDetail": {"current": current, "total": total}})
        )
    assert told is not None and (told.statuses[0].current, told.statuses[0].completed) == (100, None)
    told = rendering.take(Transfer("s", "layer", "Pull complete", message={"progressDetail": {}}))
    assert told is not None and told.statuses[0].completed is not None
    assert rendering.take(Transfer("s", "", "Status: done", message={})) is None


def test_what_waited_for_a_failed_step_is_cancelled() -> None:
    rendering = Rendering()
    error = InvalidArgument("broken")
    for step in (FIRST, SECOND):
        rendering.take(Started(step))
    told = [rendering.take(Failed(step.id, error)) for step in (FIRST, SECOND)]
    assert [each.vertices[0].error for each in told if each] == ["broken", "context canceled"]
    assert rendering.failed_line == 2


def test_warnings_have_their_place() -> None:
    rendering = Rendering()
    rendering.source = SourceInfo("Dockerfile", b"FROM x as y\n", "Dockerfile")
    told = rendering.take(Warned("FromAsCasing", "casing", "why", "https://x", 1, 1))
    assert told is not None and told.warnings[0].short == b"FromAsCasing: casing"
    assert told.warnings[0].info is rendering.source and told.warnings[0].ranges[0].start is not None


def test_errors_carry_the_dockerfile_s_lines() -> None:
    source = SourceInfo("Dockerfile", b"FROM x\nFOO\n", "Dockerfile")
    error = explained(InvalidArgument("dockerfile parse error on line 2: unknown instruction: FOO"), source)
    (detail,) = error.details
    assert detail.type_url == SOURCE and b'"ranges":[{"start":{"line":2},"end":{"line":2}}]' in detail.value
    assert explained(error, source) is error
    assert explained(InvalidArgument("no line"), source).details == ()


def test_attributes_become_options() -> None:
    options = build_options(
        {
            "filename": "a/Dockerfile", "target": "app", "build-arg:A": "1", "label:l": "v", "no-cache": "one,two",
            "platform": "linux/amd64,linux/arm64", "add-hosts": '"a=10.0.0.1",b=::1', "ulimit": "nofile=1:2,core=3",
            "shm-size": "64", "force-network-mode": "none", "image-resolve-mode": "pull", "cgroup-parent": "c",
            "context:base": "input:0-base", "context:files": "local:files", "unknown": "is ignored",
            "cache-imports": '[{"Type":"registry","Attrs":{"ref":"r/x"}}]', "cache-from": "old/ref",
        },
        [CacheOptionsEntry("inline")],
        {"base": "docker-image://sha256:1"},
    )  # fmt: skip
    assert (options.dockerfile, options.target, options.pull, options.network_mode) == (
        "a/Dockerfile",
        "app",
        True,
        "none",
    )
    assert options.build_args == {"A": "1"} and options.labels == {"l": "v"}
    assert not options.no_cache and options.no_cache_stages == {"one", "two"}
    assert options.extra_hosts == ("a:10.0.0.1", "b:::1")
    assert options.ulimits == (Ulimit(name="nofile", soft=1, hard=2), Ulimit(name="core", soft=3, hard=3))
    assert options.contexts == {"base": "docker-image://sha256:1", "files": "local:files"}
    assert [entry.attributes for entry in options.cache_imports] == [{"ref": "r/x"}, {"ref": "old/ref"}]
    assert [entry.type for entry in options.cache_exports] == ["inline"]
    assert build_options({"no-cache": ""}).no_cache


@pytest.mark.parametrize(
    "attributes",
    [
        {"force-network-mode": "bridge"}, {"ulimit": "nofile"}, {"add-hosts": "name"}, {"shm-size": "1g"},
        {"cache-imports": "{"},
    ],
)  # fmt: skip
def test_wrong_attributes_are_refused(attributes: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        build_options(attributes)


def test_contexts_that_are_elsewhere() -> None:
    assert remote_context({"context": "https://x/y.git"}) == "https://x/y.git"
    assert remote_context({"context": "http://buildkit-session/abc"}) == "" == remote_context({})
    assert input_names({"context:base::linux/amd64": "input:0-base", "context:b": "local:b"}) == {
        "base": "0-base"
    }


def test_references_come_back_in_definitions() -> None:
    assert reference_in(Definition.decode(definition_of("abc").encode())) == "abc"
    with pytest.raises(Unsupported, match="LLB"):
        reference_in(Definition([Op(source=SourceOp("docker-image://busybox")).encode()]))
