"""Dockerfiles as text: instructions, flags, quoting, expansion."""

import pytest

from longshore.build.dockerfile import parse_dockerfile
from longshore.errors import InvalidArgument
from longshore.oci.dockerfile_words import expand, parse_pairs, split_words


def test_continuation_lines_join_and_comments_inside_vanish() -> None:
    parsed = parse_dockerfile(
        '# hello\nFROM debian\nRUN apt-get update \\\n  # why\n\n  && true\nCMD ["a", "b"]\n'
    )
    assert [i.keyword for i in parsed.instructions] == ["FROM", "RUN", "CMD"]
    assert parsed.instructions[1].text.split() == ["apt-get", "update", "&&", "true"]
    assert parsed.instructions[1].line == 3
    assert parsed.instructions[2].words == ("a", "b")


def test_escape_directive_changes_the_continuation_character() -> None:
    parsed = parse_dockerfile("# escape=`\nFROM x\nRUN a `\n b\\\nUSER c")
    assert parsed.escape == "`"
    assert [i.keyword for i in parsed.instructions] == ["FROM", "RUN", "USER"]


def test_text_that_is_no_valid_json_is_the_shell_form() -> None:
    (_, run, cmd) = parse_dockerfile("FROM x\nRUN [ -f /etc/passwd ]\nCMD ['a']").instructions
    assert run.words is None
    assert cmd.words is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FROM x\nFOO bar", "line 2: unknown instruction: FOO"),
        ("FROM x\nCOPY --what=1 a b", "line 2: unknown flag: --what"),
        ("FROM x\nRUN --mount=type=cache,target=/c a", "line 2: --mount needs BuildKit, which is not served"),
        ("FROM x\nCOPY --parents a b", "line 2: --parents needs BuildKit"),
        ("FROM x\nONBUILD RUN <<-E\na\n\tE", "line 2: here-documents need BuildKit"),
        ("FROM x\nRUN <<EOF\nFOO\nEOF", "line 2: here-documents need BuildKit, which is not served yet"),
        ("FROM x\nUSER a\nRUN cat 3<<'E' \\\n >x\nb\nE", "line 3: here-documents need BuildKit"),
        ('FROM x\nCOPY <<"E" <<F /x/\na\nF\n', "line 2: here-documents need BuildKit"),
        ("FROM x\nCOPY --from a b", "line 2: missing a value on flag: --from"),
        ("FROM x\nWORKDIR", "line 2: WORKDIR requires at least one argument"),
        ("FROM x\nSHELL bash", "line 2: SHELL requires"),
        ("# escape=x\nFROM x", "line 1: invalid ESCAPE"),
        ("# only a comment\n", "cannot be empty"),
    ],
)
def test_mistakes_name_the_line(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        parse_dockerfile(text)


@pytest.mark.parametrize("command", ["echo $((1<<n)) $(( 1 << n ))", "cat <<<n", "sh -c 'cat <<m'", "a << n"])
def test_what_only_looks_like_a_here_document(command: str) -> None:
    (_, run, *_) = parse_dockerfile(f"FROM x\nRUN {command} && \\\nn\n").instructions
    assert run.text.startswith(command)


VARIABLES = {"a": "1", "empty": "", "path": "/x"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$a", "1"),
        ("${a}b", "1b"),
        ("$path/y", "/x/y"),
        ("${missing:-word}", "word"),
        ("${missing:-${a}2}", "12"),
        ("${empty:-word}", "word"),
        ("${empty-word}", ""),
        ("${a:+set}", "set"),
        ("${missing:+set}", ""),
        ("\\$a", "$a"),
        ("'$a'", "$a"),
        ('"$a b"', "1 b"),
        ('"a\\"b"', 'a"b'),
        ("$", "$"),
        ("a\\ b", "a b"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize("text", ["${a", "${a!b}", "'x", '"x', "${missing:?gone}"])
def test_broken_expansions_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        expand(text, VARIABLES)


def test_words_keep_their_quotes_until_expansion() -> None:
    assert split_words("a \"b c\" d\\ e 'f g'") == ["a", '"b c"', "d\\ e", "'f g'"]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("A=1 B=\"two words\" C='$a' D=$a", [("A", "1"), ("B", "two words"), ("C", "$a"), ("D", "1")]),
        ("A all the rest", [("A", "all the rest")]),
        ("A=b=c", [("A", "b=c")]),
    ],
)
def test_pairs(text: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_pairs(text, VARIABLES) == pairs


def test_a_pair_without_equals_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="can't find ="):
        parse_pairs("A=1 B", {})
