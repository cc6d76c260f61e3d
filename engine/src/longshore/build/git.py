"""Git repositories as build contexts and as sources of ADD, by the host's git command.

https://docs.docker.com/build/concepts/context/#git-repositories: URL#ref:subfolder, or query parameters. The command
runs without the user's and the machine's configuration, with protocols that only talk to servers, no hooks, no
credential prompts.
"""

import asyncio
import os
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import parse_qs, urlsplit

from longshore.build.trees import TarTree
from longshore.errors import InvalidArgument, Unavailable, Unsupported
from longshore.storage.trees import remove_tree

SECONDS = 600.0
_SCP = re.compile(r"[\w.-]+@[\w.-]+:[^:].*")
_REF = re.compile(r"[\w][\w./+@{}~^-]*")


@dataclass(frozen=True, slots=True)
class GitSource:
    url: str
    ref: str = ""  # branch, tag or commit; "" is the default branch
    folder: str = ""
    keep_git_dir: bool = False
    checksum: str = ""  # the commit that it must be


def is_git(text: str) -> bool:
    """github.com/user/repo, git://…, ssh://…, git@host:path, and http(s)://….git[#…]."""
    if text.startswith(("git://", "ssh://", "git+ssh://", "github.com/")) or _SCP.fullmatch(text):
        return True
    if text.startswith(("http://", "https://")):
        return urlsplit(text).path.endswith(".git")
    return False


def parse_git(text: str) -> GitSource:
    """Raises InvalidArgument."""
    url, _, fragment = text.partition("#")
    ref, _, folder = fragment.partition(":")
    query: dict[str, list[str]] = {}
    if "?" in url:
        url, _, words = url.partition("?")
        query = parse_qs(words, keep_blank_values=True)
        if unknown := set(query) - {"ref", "tag", "branch", "commit", "checksum", "subdir", "keep-git-dir"}:
            raise InvalidArgument(f"unexpected query {min(unknown)!r} of the git URL {text[:200]}")
    given = {name: values[0] for name, values in query.items()}
    ref = given.get("ref") or given.get("tag") or given.get("branch") or given.get("commit") or ref
    folder = given.get("subdir") or folder
    if url.startswith("github.com/"):
        url = f"https://{url}"
    if ref and not _REF.fullmatch(ref):
        raise InvalidArgument(f"invalid git reference {ref[:100]!r}")
    if url.startswith("-") or "\0" in text or any(char.isspace() for char in url):
        raise InvalidArgument(f"invalid git URL {text[:200]!r}")
    if ".." in folder.split("/"):
        raise InvalidArgument(f"invalid subfolder {folder[:100]!r} of a git URL")
    return GitSource(
        url,
        ref,
        folder.strip("/"),
        given.get("keep-git-dir", "").lower() in ("1", "true"),
        given.get("checksum", ""),
    )


async def checkout(
    text: str, scratch: Path, *, keep_git_dir: bool = False, checksum: str = "", agent: Path | None = None
) -> TarTree:
    """The files of a repository at one commit, without .git unless asked for. The caller closes the tree.

    Raises InvalidArgument, Unavailable (the server, the reference), Unsupported (no git here).
    """
    source = parse_git(text)
    if shutil.which("git") is None:
        raise Unsupported("git is not installed on this host", hint="apt-get install git")
    folder = Path(tempfile.mkdtemp(prefix="git-", dir=scratch))
    try:
        commit = await _fetch(source, folder, agent)
        wanted = checksum or source.checksum
        if wanted and not (len(wanted) >= 7 and commit.startswith(wanted.lower())):
            raise InvalidArgument(f"expected checksum to match {wanted}, got {commit}", detail=source.url)
        return await asyncio.to_thread(_packed, folder, source, scratch, keep_git_dir or source.keep_git_dir)
    finally:
        await asyncio.to_thread(remove_tree, folder)


async def _fetch(source: GitSource, folder: Path, agent: Path | None) -> str:
    await _git(folder, agent, "init", "-q", ".")
    await _git(folder, agent, "remote", "add", "origin", source.url)
    wanted = source.ref or "HEAD"
    try:
        await _git(folder, agent, "fetch", "-q", "--depth=1", "--no-tags", "origin", wanted)
        target = "FETCH_HEAD"
    except Unavailable:
        if not re.fullmatch(r"[0-9a-f]{7,64}", wanted):
            raise
        # servers need not give a bare commit, gitprotocol-capabilities(5); nor an abbreviated one
        await _git(folder, agent, "fetch", "-q", "origin")
        target = wanted
    await _git(folder, agent, "checkout", "-q", "--detach", target)
    if (folder / ".gitmodules").is_file():
        await _git(folder, agent, "submodule", "update", "-q", "--init", "--recursive", "--depth=1")
    return (await _git(folder, agent, "rev-parse", "HEAD")).strip()


async def _git(folder: Path, agent: Path | None, *arguments: str) -> str:
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "http:https:git:ssh",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new",
        **({"SSH_AUTH_SOCK": str(agent)} if agent else {}),
    }
    process = await asyncio.create_subprocess_exec(
        "git", "-c", "core.hooksPath=/dev/null", "-c", "core.symlinks=true", *arguments,
        cwd=folder, env=environment, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), SECONDS)
    except TimeoutError as cause:
        raise Unavailable(f"git {arguments[0]} took longer than {SECONDS:.0f} seconds") from cause
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Unavailable(f"git {arguments[0]} failed", detail=err.decode(errors="replace").strip()[-500:])
    return out.decode(errors="replace")


def _packed(folder: Path, source: GitSource, scratch: Path, keep_git_dir: bool) -> TarTree:
    """As a tar, so that nothing of the repository is looked up by path again."""
    top = folder / source.folder
    resolved = top.resolve()
    if not resolved.is_dir() or not resolved.is_relative_to(folder.resolve()):
        raise InvalidArgument(f"the repository has no folder {source.folder!r}", detail=source.url)
    file = cast(BinaryIO, tempfile.TemporaryFile(dir=scratch))  # noqa: SIM115  the tree keeps it
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(os.listdir(resolved)):
            if name != ".git" or keep_git_dir:
                tar.add(resolved / name, name, filter=_plain)
    file.seek(0)
    return TarTree(file)


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0  # git keeps none; equal commits give equal layers
    return info
