"""Questions to the frontend instead of a build (`--call`, `--print`, `--check`): outline, targets, lint.

What a client prints is `result.txt`; `result.json` is for programs. Shapes: frontend/subrequests of BuildKit.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from longshore.api.buildkit.door import SessionDoor
from longshore.api.buildkit.failures import explained, unknown_request
from longshore.api.buildkit.frontend import build_options
from longshore.api.buildkit.jobs import Job
from longshore.api.buildkit.solving import Kit
from longshore.build.builder import Builder
from longshore.build.dockerfile import Dockerfile, parse_dockerfile
from longshore.build.events import Warned
from longshore.build.ports import DockerfileSource
from longshore.errors import EngineError

VERSION = "1.0.0"
DESCRIBE, OUTLINE, TARGETS, LINT = (
    f"frontend.{name}" for name in ("subrequests.describe", "outline", "targets", "lint")
)
DESCRIPTIONS = {
    OUTLINE: "List all parameters current build target supports",
    TARGETS: "List all targets current build supports",
    LINT: "Lint a Dockerfile",
    DESCRIBE: "List available subrequest types",
}


async def answer(kit: Kit, job: Job, attributes: Mapping[str, str], name: str) -> dict[str, bytes]:
    """The metadata that a client prints. Raises CallFailed for a request that there is not."""
    if name not in DESCRIPTIONS:
        raise unknown_request(name)
    if name == DESCRIBE:
        return _described()
    door = SessionDoor(await kit.session(job), kit.contexts, attributes, job, kit.scratch)
    job.open.callback(door.close)
    try:
        source = await door.dockerfile()
        if name == LINT:
            build = await Builder(kit.engine).prepare(build_options(attributes), door)
            job.open.push_async_callback(build.close)
            return lint_result(source, build.warnings)
        dockerfile = parse_dockerfile(source.data.decode(errors="replace"))
    except EngineError as error:
        raise explained(error, job.rendering.source) from error
    return (
        targets_result(source, dockerfile)
        if name == TARGETS
        else outline_result(source, dockerfile, attributes)
    )


def targets_result(source: DockerfileSource, dockerfile: Dockerfile) -> dict[str, bytes]:
    """Every stage; the last one is the default. A comment "# name description" before FROM describes it."""
    found: list[dict[str, object]] = []
    for instruction in dockerfile.instructions:
        if instruction.keyword == "FROM":
            words = instruction.text.split()
            named = len(words) == 3 and words[1].upper() == "AS"
            name = words[2].lower() if named else ""
            target: dict[str, object] = {
                "name": name,
                "base": words[0],
                "platform": instruction.flags.get("platform", ""),
            }
            target["description"] = _comment(source, instruction.line, name)
            found.append({key: value for key, value in target.items() if value})
    if found:
        found[-1]["default"] = True
    rows = [("TARGET", "DESCRIPTION")]
    for target in found:
        name = str(target.get("name", "")) or "(default)"
        if target.get("default") and name != "(default)":
            name += " (default)"
        rows.append((name, str(target.get("description", ""))))
    return _result({"targets": found, "sources": [source.data]}, _table(rows))


def outline_result(
    source: DockerfileSource, dockerfile: Dockerfile, attributes: Mapping[str, str]
) -> dict[str, bytes]:
    """What the target takes: build arguments with their values, secrets, ssh agents."""
    arguments: dict[str, tuple[str, str]] = {}
    mounts: dict[str, dict[str, bool]] = {"secret": {}, "ssh": {}}
    for instruction in dockerfile.instructions:
        if instruction.keyword == "ARG":
            for word in instruction.text.split():
                name, _, default = word.partition("=")
                value = attributes.get(f"build-arg:{name}", default.strip("\"'"))
                arguments[name] = (value, _comment(source, instruction.line, name))
        elif instruction.keyword == "RUN":
            for kind, id, required in _mounts(source_line(source, instruction.line)):
                mounts[kind][id] = mounts[kind].get(id, False) or required
    args = [{"name": name, "value": value, "description": text} for name, (value, text) in arguments.items()]
    document: dict[str, object] = {
        "name": attributes.get("target", ""),
        "args": [{key: item for key, item in row.items() if item} for row in args],
    }
    shown = ""
    if arguments:
        rows = [(row["name"], row["value"], row["description"]) for row in args]
        shown += _table([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows]) + "\n"
    for kind, key in (("secret", "secrets"), ("ssh", "ssh")):
        document[key] = [
            {"name": id} | ({"required": True} if required else {}) for id, required in mounts[kind].items()
        ]
        if mounts[kind]:
            lines = [(id, "true" if required else "") for id, required in mounts[kind].items()]
            shown += _table([(kind.upper(), "REQUIRED"), *lines]) + "\n"
    return _result({key: item for key, item in document.items() if item} | {"sources": [source.data]}, shown)


def _mounts(text: str) -> Iterator[tuple[str, str, bool]]:
    """Kind, id and whether it must be there, of the secrets and agents that a RUN mounts."""
    for mount in re.findall(r"--mount=(\S+)", text):
        fields = dict(part.partition("=")[::2] for part in mount.split(","))
        kind = fields.get("type", "")
        if kind in ("secret", "ssh"):
            target = fields.get("target", fields.get("dst", "")).rpartition("/")[2]
            yield kind, fields.get("id", target or "default"), fields.get("required", "false") != "false"


def lint_result(source: DockerfileSource, warnings: Iterable[Warned]) -> dict[str, bytes]:
    """Findings with their places; `result.statuscode` is what the client exits with."""
    found: list[dict[str, object]] = []
    text = ""
    for warning in warnings:
        place = {"start": {"line": warning.start}, "end": {"line": warning.end or warning.start}}
        found.append(
            {
                "ruleName": warning.rule,
                "description": warning.description,
                "url": warning.url,
                "detail": warning.message,
                "location": {"sourceIndex": 0, "ranges": [place]},
            }
        )
        text += f"\nWARNING: {warning.rule} - {warning.url}\n{warning.message}\n"
        text += f"{source.name}:{warning.start}\n--------------------\n"
        text += f"{warning.start:4} | >>> {source_line(source, warning.start)}\n--------------------\n"
    sources = [{"filename": source.name, "language": "Dockerfile", "data": source.data}]
    value = {"warnings": found, "sources": sources}
    status = b"1" if found else b"0"
    return _result(value, text or "Check complete, no warnings found.\n") | {"result.statuscode": status}


def source_line(source: DockerfileSource, line: int) -> str:
    """A line of the Dockerfile with those that continue it; "" beyond the end."""
    lines = source.data.decode(errors="replace").splitlines()[max(line - 1, 0) :]
    found = ""
    for text in lines:
        found += text
        if not text.rstrip().endswith("\\"):
            break
    return found


def _comment(source: DockerfileSource, line: int, name: str) -> str:
    """The description in the comment above an instruction, which begins with the name."""
    lines = source.data.decode(errors="replace").splitlines()
    above = lines[line - 2].strip() if 2 <= line <= len(lines) + 1 else ""
    words = above.lstrip("# ").split(maxsplit=1)
    return words[1] if above.startswith("#") and len(words) == 2 and words[0] == name else ""


def _described() -> dict[str, bytes]:
    value = [
        {"name": name, "version": VERSION, "type": "rpc", "description": text}
        for name, text in DESCRIPTIONS.items()
    ]
    rows = [
        ("NAME", "VERSION", "DESCRIPTION"),
        *((name, VERSION, text) for name, text in DESCRIPTIONS.items()),
    ]
    return _result(value, _table(rows))


def _result(value: object, text: str) -> dict[str, bytes]:
    return {
        "result.json": msgspec.json.format(msgspec.json.encode(value), indent=2),
        "result.txt": text.encode(),
        "version": VERSION.encode(),
    }


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) + 3 for column in range(len(rows[0]))]
    lines = ("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(line.rstrip() + "\n" for line in lines)
