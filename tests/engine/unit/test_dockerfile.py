"""Dockerfiles as text: instructions, flags, quoting, expansion."""

import pytest

from longshore.build.dockerfile import parse_dockerfile
from longshore.errors import InvalidArgument
from longshore.oci.dockerfile_instruction import parse_instruction
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
        ("FROM x\nRUN --device=a b", "line 2: --device is not supported"),
        ("FROM x\nCOPY --parens a b", r"line 2: unknown flag: --parens \(did you mean parents"),
        ("FROM x\nCOPY --link=maybe a b", "line 2: expecting boolean value for flag --link"),
        ("FROM x\nRUN <<EOF\nFOO\n", "line 2: unterminated heredoc"),
        ("FROM x\nRUN a << n\n", "line 2: unterminated heredoc"),
        ("# escape=`\n# escape=`\nFROM x", "line 2: only one escape parser directive"),
        ("FROM x\nRUM x", r"line 2: unknown instruction: RUM \(did you mean RUN"),
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


@pytest.mark.parametrize("command", ["echo $((1<<n))", "cat <<<n", "sh -c 'cat <<m'", 'echo "<<n"'])
def test_what_only_looks_like_a_here_document(command: str) -> None:
    (_, run, *_) = parse_dockerfile(f"FROM x\nRUN {command} && \\\nn\n").instructions
    assert run.text.startswith(command)


VARIABLES = {"a": "1", "empty": "", "path": "/x", "file": "a/b/c.tar.gz"}


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
        ("${file#*/}", "b/c.tar.gz"),
        ("${file##*/}", "c.tar.gz"),
        ("${file%.*}", "a/b/c.tar"),
        ("${file%%.*}", "a/b/c"),
        ("${file%/?.tar*}", "a/b"),
        ("${file/b/X}", "a/X/c.tar.gz"),
        ("${file//\\//-}", "a-b-c.tar.gz"),
        ("${file//a/}", "/b/c.tr.gz"),
        ("${file#zzz}", "a/b/c.tar.gz"),
        ("${missing#x}", ""),
        ("${a?gone}", "1"),
        ("${missing-$a}", "1"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize(
    "text", ["${a", "${a!b}", "${}", "${:-x}", "${a/b}", "${a:#b}", "'x", '"x', "${missing:?gone}"]
)
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


def test_here_documents_are_taken_with_their_lines() -> None:
    text = "FROM x\nRUN <<EOF cat <<-'B' && \\\n true\na\nEOF\n\tb\n\tB\nCOPY <<\"c d\" <<e /x/\n1\nc d\n$2\ne\nUSER u"
    (_, run, copy, user) = parse_dockerfile(text.replace('"c d"', '"cd"').replace("c d", "cd")).instructions
    assert [(h.name, h.data, h.expand, h.chomp) for h in run.heredocs] == [
        ("EOF", "a\n", True, False),
        ("B", "b\n", False, True),
    ]
    assert [(h.name, h.content, h.expand) for h in copy.heredocs] == [
        ("cd", "1\n", False),
        ("e", "$2\n", True),
    ]
    assert (copy.line, copy.end, user.line) == (8, 12, 13)


def test_a_trigger_keeps_its_here_document() -> None:
    (_, trigger) = parse_dockerfile("FROM x\nONBUILD RUN <<E\na\nE\n").instructions
    inner = parse_instruction(2, trigger.text)
    assert (inner.keyword, inner.text, inner.heredocs[0].data) == ("RUN", "<<E", "a\n")


def test_flags_may_repeat_and_have_quotes() -> None:
    text = 'FROM x\nRUN --mount=type=cache,target=/a --mount="type=bind,target=/b c" --network=none x --y'
    (_, run) = parse_dockerfile(text).instructions
    assert run.repeated["mount"] == ("type=cache,target=/a", "type=bind,target=/b c")
    assert (run.flags["network"], run.text) == ("none", "x --y")


def test_mistakes_show_the_lines_around() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_dockerfile("FROM x\n\nUSER a\nFOO b\nRUN c\n")
    assert str(caught.value).endswith(
        "Dockerfile:4\n--------------------\n   2 |\n   3 |     USER a\n   4 | >>> FOO b\n   5 |     RUN c\n"
        "--------------------"
    )


def test_directives_are_read_at_the_top_only() -> None:
    parsed = parse_dockerfile(
        "# syntax=docker/dockerfile:1\n# check=skip=all\nFROM x\n# escape=`\nRUN a \\\n b"
    )
    assert {name: value for name, (_, value) in parsed.directives.items()} == {
        "syntax": "docker/dockerfile:1",
        "check": "skip=all",
    }
    assert parsed.instructions[1].text == "a  b"


def test_every_unknown_variable_is_told() -> None:
    unknown: set[str] = set()
    assert expand("$a ${b:-$c} $d", {"a": "1"}, unknown=unknown) == "1  "
    assert unknown == {"c", "d"}
