"""The parser of Dockerfiles against texts that nobody would write: an InvalidArgument or a value, nothing else."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from longshore.build.arguments import global_scope
from longshore.build.dockerfile import parse_dockerfile
from longshore.build.lint import Checks, lint
from longshore.build.run_mounts import parse_mount
from longshore.build.stages import context_paths, plan_build
from longshore.errors import InvalidArgument
from longshore.oci.changes import configure, environment
from longshore.oci.dockerfile_words import expand, parse_pairs, split_words
from longshore.oci.ignore import Ignore
from longshore.oci.image_config import ContainerDefaults

WORDS = st.sampled_from(
    ["FROM", "RUN", "COPY", "ADD", "ENV", "ARG", "ONBUILD", "HEALTHCHECK", "from", "AS", "scratch", "busybox", "CMD",
     "LABEL", "EXPOSE", "VOLUME", "USER", "WORKDIR", "SHELL", "STOPSIGNAL", "ENTRYPOINT", "MAINTAINER", "#", "escape=`",
     "check=skip=all", "--mount=type=cache,target=/x", "--from=0", "--chown=1", "--chmod=u+x", "--link", "--parents",
     "--exclude=*", "<<EOF", "<<-'E'", "EOF", "E", "\\", "`", "\n", "\r\n", "\t", "[", "]", '"a"', ",", "$a", "${a",
     "}", ":-", "##", "%", "/", "=", "a=b", "'", '"', "80/tcp", "--interval=1s", "NONE", "\x0c", "\u2028", "\ufeff", "\0"]
)  # fmt: skip
FILES = st.lists(st.one_of(WORDS, st.text(max_size=8)), max_size=40).map(" ".join)
SEEDS = (
    "FROM a\nRUN <<E <<-'F'\nx\nE\n\ty\n\tF\n",
    "FROM a\nONBUILD COPY <<E /x\n$\nE",
    "FROM a AS b\nCOPY --from=b --chmod=$ / /\n",
    "ARG A=${B:-${A#*}}\nFROM ${A%%/*}\n",
    "# escape=`\nFROM a\nRUN x `\n # y\n\nz",
    "FROM a\nENV A\\=b c='d\n",
    "FROM a\nHEALTHCHECK --retries=99999999999999999999 CMD x",
    "FROM a\nEXPOSE 1-65535/udp 1-65535",
    'FROM a\nSHELL ["\\ud800"]\nRUN x',
)


def judged(text: str) -> None:
    """Everything that is done with a Dockerfile before the first step."""
    try:
        dockerfile = parse_dockerfile(text)
        plan = plan_build(dockerfile, {"a": "1"}, "", "linux/arm64")
        plan.steps()
        context_paths(plan)
        lint(dockerfile, plan.scope, Checks(), Ignore("a\n!b"))
        for stage in plan.stages:
            config = ContainerDefaults()
            for step in stage.steps:
                for mount in step.repeated.get("mount", ()):
                    parse_mount(mount, lambda word: word)
                if step.keyword not in ("ADD", "ARG", "COPY", "RUN"):
                    config = configure(step, config, environment(config), dockerfile.escape)
    except InvalidArgument as error:
        assert str(error)


@settings(max_examples=150, deadline=None)
@given(FILES)
@example(SEEDS[0])
@example(SEEDS[1])
@example(SEEDS[2])
@example(SEEDS[3])
@example(SEEDS[4])
@example(SEEDS[5])
@example(SEEDS[6])
@example(SEEDS[7])
@example(SEEDS[8])
def test_a_dockerfile_is_judged_or_refused(text: str) -> None:
    judged(text)
    judged(f"FROM a\n{text}")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(WORDS, st.text(max_size=6)), max_size=12).map("".join))
def test_words_are_expanded_or_refused(text: str) -> None:
    split_words(text)
    for work in (expand, parse_pairs):
        try:
            work(text, {"a": "x" * 50, "b": ""})
        except InvalidArgument:
            pass


def test_an_argument_that_grows_is_bounded() -> None:
    text = "ARG A=aaaaaaaaaa\n" + "".join(
        f"ARG A{n}=${{A//a/$A}}\nARG A=$A{n}$A{n}$A{n}$A{n}\n" for n in range(40)
    )
    try:
        dockerfile = parse_dockerfile(f"{text}FROM x")
        global_scope(dockerfile.instructions[:-1], {}, {}, dockerfile.escape)
    except InvalidArgument as error:
        assert "more than" in str(error) or "expands" in str(error)
    else:
        raise AssertionError("it grew without end")
