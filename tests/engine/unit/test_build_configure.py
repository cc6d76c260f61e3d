"""Instructions that change the configuration, stages and arguments."""

import pytest

from longshore.build.dockerfile import parse_dockerfile
from longshore.build.owners import OwnerLookup, parse_owner
from longshore.build.stages import plan_build
from longshore.errors import EngineError, InvalidArgument
from longshore.oci.changes import configure, history_words
from longshore.oci.dockerfile_instruction import parse_instruction
from longshore.oci.image_config import ContainerDefaults, Healthcheck


def after(*lines: str, **variables: str) -> ContainerDefaults:
    config = ContainerDefaults()
    for number, line in enumerate(lines, start=1):
        config = configure(parse_instruction(number, line), config, variables)
    return config


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("CMD echo hi",), ContainerDefaults(cmd=["/bin/sh", "-c", "echo hi"])),
        (('CMD ["a", "b"]',), ContainerDefaults(cmd=["a", "b"])),
        (('SHELL ["/bin/bash", "-c"]', "CMD x"), ContainerDefaults(shell=["/bin/bash", "-c"], cmd=["/bin/bash", "-c", "x"])),
        (("ENV A=1 B=2", "ENV A=3"), ContainerDefaults(env=["A=3", "B=2"])),
        (("LABEL a=$x",), ContainerDefaults(labels={"a": "y"})),
        (("EXPOSE 80 53/udp", "EXPOSE 7000-7001"), ContainerDefaults(exposed_ports={"80/tcp": {}, "53/udp": {}, "7000/tcp": {}, "7001/tcp": {}})),
        (("WORKDIR /a", "WORKDIR b", "WORKDIR ../c"), ContainerDefaults(working_dir="/a/c")),
        (("WORKDIR //a",), ContainerDefaults(working_dir="/a")),
        (("EXPOSE 53/UDP",), ContainerDefaults(exposed_ports={"53/udp": {}})),
        (("USER $x",), ContainerDefaults(user="y")),
        (('VOLUME ["/a", "/b"]', "VOLUME /c"), ContainerDefaults(volumes={"/a": {}, "/b": {}, "/c": {}})),
        (("STOPSIGNAL SIGQUIT",), ContainerDefaults(stop_signal="SIGQUIT")),
        (("ONBUILD RUN make",), ContainerDefaults(on_build=["RUN make"])),
        (("HEALTHCHECK NONE",), ContainerDefaults(healthcheck=Healthcheck(test=["NONE"]))),
        (
            ("HEALTHCHECK --interval=1m30s --retries=2 CMD curl localhost",),
            ContainerDefaults(healthcheck=Healthcheck(test=["CMD-SHELL", "curl localhost"], interval=90 * 10**9, retries=2)),
        ),
    ],
)  # fmt: skip
def test_each_instruction(lines: tuple[str, ...], expected: ContainerDefaults) -> None:
    assert after(*lines, x="y") == expected


@pytest.mark.parametrize(
    "line",
    ["EXPOSE 0", "EXPOSE a", "EXPOSE 70000", "ENV x", "LABEL a b=c d", "ONBUILD FROM x", "HEALTHCHECK CURL x",
     "HEALTHCHECK --interval=fast CMD x", 'VOLUME [""]'],
)  # fmt: skip
def test_mistakes_name_the_line(line: str) -> None:
    if line == "LABEL a b=c d":
        assert after(line).labels == {"a": "b=c d"}  # the old form takes the rest of the line
        return
    with pytest.raises(InvalidArgument, match="line 1"):
        after(line)


def test_owners_are_looked_up_in_the_image() -> None:
    find = OwnerLookup("root:x:0:0::/:/bin/sh\nwww:x:33:34::/:/bin/sh\n", "staff:x:50:\n")
    assert parse_owner("www", find) == (33, 34)
    assert parse_owner("www:staff", find) == (33, 50)
    assert parse_owner("7", find) == (7, 7)
    with pytest.raises(EngineError, match="unable to find user nobody"):
        parse_owner("nobody", find)


def test_only_the_stages_that_the_target_needs_are_planned() -> None:
    text = "ARG V=1\nFROM a:$V AS one\nFROM b AS two\nFROM c AS unused\nFROM two\nCOPY --from=one /x /y\n"
    plan = plan_build(parse_dockerfile(text), {"V": "9"})
    assert [(stage.name, stage.base) for stage in plan.stages] == [("one", "a:9"), ("two", "b"), ("", "two")]
    assert [stage.name for stage in plan_build(parse_dockerfile(text), {}, "two").stages] == ["two"]


@pytest.mark.parametrize(
    ("text", "target", "problem"),
    [
        ("RUN x\nFROM y", "", "no build stage"),
        ("ARG x", "", "no build stage"),
        ("FROM a b c d", "", "one or three arguments"),
        ("FROM $missing", "", "should not be blank"),
        ("FROM a", "other", "failed to reach build target"),
    ],
)
def test_broken_stages_are_refused(text: str, target: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        plan_build(parse_dockerfile(text), {}, target)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('CMD ["a", "b c"]', 'CMD ["a" "b c"]'),
        ("CMD echo hi", 'CMD ["/bin/sh" "-c" "echo hi"]'),
        ("ENTRYPOINT []", "ENTRYPOINT []"),
        ("ENV A=$x B='1 2'", "ENV A=y B=1 2"),
        ("LABEL a=b", "LABEL a=b"),
        ("EXPOSE 80 53/udp", "EXPOSE 80 53/udp"),
        ('VOLUME ["/a", "/$x"]', "VOLUME [/a /y]"),
        ("USER $x", "USER y"),
        ("STOPSIGNAL SIGINT", "STOPSIGNAL SIGINT"),
        ("WORKDIR a/..", "WORKDIR /"),
        ('SHELL ["/bin/bash", "-c"]', "SHELL [/bin/bash -c]"),
        ("ONBUILD RUN make", "ONBUILD RUN make"),
        ("MAINTAINER me", "MAINTAINER me"),
        (
            "HEALTHCHECK --interval=5m --timeout=3s --retries=3 CMD curl x",
            'HEALTHCHECK &{["CMD-SHELL" "curl x"] "5m0s" "3s" "0s" "0s" \'\\x03\'}',
        ),
    ],
)
def test_history_tells_of_it_as_dockerds(line: str, words: str) -> None:
    instruction = parse_instruction(1, line)
    assert history_words(instruction, after(line, x="y"), {"x": "y"}) == words
