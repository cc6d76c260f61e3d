"""Where the files of one COPY or ADD come from: context, stage, image, URL, git, here-document."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from longshore.build import git
from longshore.build.arguments import expanded
from longshore.build.copying import Source
from longshore.build.remote import fetch_file, file_of, is_url
from longshore.build.work import Origin, Work
from longshore.errors import InvalidArgument
from longshore.oci.dockerfile_instruction import Instruction, parse_heredoc
from longshore.oci.dockerfile_words import expand

if TYPE_CHECKING:
    from longshore.build.stage_run import StageRun


@asynccontextmanager
async def copy_sources(
    work: Work, run: "StageRun", instruction: Instruction
) -> AsyncGenerator[list[Source], None]:
    """The sources in the order of the arguments; what was fetched for them is let go at the end.

    Raises InvalidArgument for what COPY or ADD cannot take, Unavailable for what cannot be fetched.
    """
    words = run.words(instruction)[:-1]
    if not words:
        raise instruction.error(
            f"{instruction.keyword} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )
    _judge(instruction, words)
    closing: list[object] = []
    found: list[Source] = []
    try:
        for word in words:
            found.append(await _source(work, run, instruction, word, closing))
        yield found
    finally:
        for tree in closing:
            tree.close()  # type: ignore[attr-defined]


async def _source(
    work: Work, run: "StageRun", instruction: Instruction, word: str, closing: list[object]
) -> Source:
    adding = instruction.keyword == "ADD"
    unpack = instruction.flags.get("unpack")
    if (heredoc := parse_heredoc(word)) is not None or word.startswith("<<"):
        name = heredoc.name if heredoc else word[2:].lstrip("-").strip("\"'")
        text = next((h for h in instruction.heredocs if h.name == name), None)
        if text is None:
            raise instruction.error(f"there is no here-document {name}")
        data = text.data
        if text.expand:
            try:
                data = expand(data, run.variables, "\\", quotes=False)
            except InvalidArgument as cause:
                raise instruction.error(str(cause)) from cause
        tree = file_of(name.replace("/", "_"), data.encode("utf-8", "surrogateescape"))
        closing.append(tree)
        return Source(tree, (name.replace("/", "_"),))
    checksum = expanded(instruction, instruction.flags.get("checksum", ""), run.variables, run.escape)
    if adding and git.is_git(word):
        keep = instruction.flag("keep-git-dir")
        async with work.door.ssh("default") as agent:
            tree = await git.checkout(
                word, work.workshop.scratch, keep_git_dir=keep, checksum=checksum, agent=agent
            )
        closing.append(tree)
        return Source(tree, ("/",), root_owned=True)
    if adding and is_url(word):
        tree = await fetch_file(word, work.workshop.scratch, checksum=checksum)
        closing.append(tree)
        return Source(tree, tuple(tree.children("/")), unpack=unpack == "true")
    origin = await _origin(work, run, instruction)
    return Source(
        origin.tree,
        (word,),
        unpack=(adding if unpack is None else unpack == "true"),
        root_owned=origin.context,
        name=origin.name,
    )


async def _origin(work: Work, run: "StageRun", instruction: Instruction) -> Origin:
    name = instruction.flags.get("from")
    if name is None:
        return await work.context()
    name = expanded(instruction, name, {**work.plan.scope.values, **run.variables}, run.escape)
    if not name:
        raise instruction.error("--from needs the name of a stage, an image or a context")
    return await work.origin(name, run.stage)


def _judge(instruction: Instruction, words: list[str]) -> None:
    remote = [word for word in words if is_url(word) or git.is_git(word)]
    if instruction.keyword == "COPY" and remote and "from" not in instruction.flags:
        raise instruction.error(f"source can't be a URL for COPY: {remote[0]}", hint="use ADD")
    if "checksum" in instruction.flags:
        if len(words) != 1:
            raise instruction.error("checksum can't be specified for multiple sources")
        if not remote:
            raise instruction.error("checksum requires HTTP(S) or Git sources")
