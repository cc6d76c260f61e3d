"""Write docs/reference/api.md: the operations of the Docker Engine API beside the routes that the engine has.

The operations are facts in docs/reference/docker-api-operations.tsv; what is served is read from the ROUTES tables,
so the page cannot say more than the code does. `--check` only compares (tests/unit/test_docs.py does the same).
"""

import argparse
import ast
import csv
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from longshore.api.http import MAX_API_VERSION, MIN_API_VERSION, Route
from longshore.api.server import collect_routes

ROOT = Path(__file__).resolve().parents[1]
OPERATIONS = ROOT / "docs/reference/docker-api-operations.tsv"
PAGE = ROOT / "docs/reference/api.md"
CLUSTER = ("Swarm", "Node", "Service", "Task", "Secret", "Config", "Plugin")

HEAD = """\
# The API

<!-- Written by tools/api_reference.py; change that, or the code, and run `.venv/bin/python tools/api_reference.py`. -->

`longshored` speaks the Docker Engine API {low} to {high} over HTTP/1.1, on unix sockets and on TCP with mutual TLS. A path
may begin with a version (`/v1.41/…`); a newer or older one is refused with status 400. Errors are the documented status
and `{{"message": …}}`.

{served} of {all} operations are served. *refused* means that the engine answers with an error that says so; *not served*
is status 404. Operations of a cluster and of Docker's plugins are at the end.
"""
EXTENSION_HEAD = """
## Beside Docker's API

No version in front of these.

| request | what it does |
|---|---|
"""
EXTENSION = {  # a route without a line here is an error
    "POST /grpc": "BuildKit's services over HTTP/2; dockerd serves it too, and does not document it",
    "POST /longshore/v1/apply": "bring containers, images, volumes and networks to a wanted state, see [apply.md](apply.md)",
    "GET /longshore/v1/doctor": "what this machine lacks and what does not fit together on its disk: a list of `check`, `status` (`ok`, `warn`, `fail`), `detail`, `hint`; `deep=1` reads every blob",
    "POST /longshore/v1/doctor/repair": "mend the disk; a list of `what` was found and what was `done`, or the `error`; `deep=1`",
    "GET /longshore/v1/system/df": "where every byte of the data root is: `what`, `path`, `size`, `count`, `free_by`; the last line is the sum",
    "GET /longshore/v1/images/{name}/why": "what holds an image, blob or layer: `id`, `kind`, `size`, `held_by` with `kind`, `name`, `detail`",
    "GET /longshore/v1/registries": "the registries inside this daemon: `name`, `status`, `addresses`, what they hold",
    "POST /longshore/v1/registries": "start one: `name`, `config` (see [registry.md](../guides/registry.md)), `settings` as a list of key=value",
    "DELETE /longshore/v1/registries/{name}": "stop one; its data stays",
    "GET /longshore/v1/images/{name}/contents": "all blobs of an image: `id`, `config`, `layers` with `diffId`, `manifest`",
    "PUT /longshore/v1/images/{name}": "make an image of blobs that are here; 404 names the missing ones",
    "POST /longshore/v1/blobs/missing": "of `digests`, those that are not here; the others are kept until their image comes",
    "GET /longshore/v1/blobs/{digest}": "a blob's bytes",
    "HEAD /longshore/v1/blobs/{digest}": "whether the blob is here, and its size",
    "PUT /longshore/v1/blobs/{digest}": "store a blob; bytes of another digest are refused",
}


@dataclass(frozen=True)
class Operation:
    tag: str
    method: str
    path: str
    name: str


def read_operations(path: Path = OPERATIONS) -> list[Operation]:
    with path.open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [Operation(row["tag"], row["method"], row["path"], row["operation"]) for row in rows]


def key(method: str, path: str) -> tuple[str, str]:
    """Operation and route meet here: the names of parameters do not matter."""
    return method, re.sub(r"\{[^}]+\}", "{}", path)


def refusal(handler: Callable[..., Any]) -> str:
    """The text of a handler that always ends in one error; "" for one that can answer."""
    function = ast.parse(textwrap.dedent(inspect.getsource(handler))).body[0]
    assert isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef)
    last = function.body[-1]
    returns = any(isinstance(node, ast.Return) for node in ast.walk(function))
    if returns or not isinstance(last, ast.Raise) or not isinstance(last.exc, ast.Call):
        return ""
    words = [*last.exc.args, *(word.value for word in last.exc.keywords if word.arg == "detail")]
    return ": ".join(str(word.value) for word in words if isinstance(word, ast.Constant))


def page(routes: Iterable[Route], operations: list[Operation]) -> str:
    """The whole page. Pure."""
    served = {key(route.method, route.pattern): route for route in routes}

    def answer(operation: Operation) -> str:
        route = served.get(key(operation.method, operation.path))
        if route is None:
            return "not served"
        words = refusal(route.handler)
        return f"refused: {words}" if words else "yes"

    answers = {operation: answer(operation) for operation in operations}
    numbers = {"served": list(answers.values()).count("yes"), "all": len(operations)}
    versions = {"low": "{}.{}".format(*MIN_API_VERSION), "high": "{}.{}".format(*MAX_API_VERSION)}
    text = HEAD.format(**numbers, **versions)
    ordered = sorted(operations, key=lambda each: each.tag in CLUSTER)  # stable: the file's order otherwise
    for tag, members in groupby(ordered, key=lambda each: each.tag):
        text += f"\n## {tag}\n\n| operation | request | served |\n|---|---|---|\n"
        for each in members:
            text += f"| {each.name} | `{each.method} {each.path}` | {answers[each]} |\n"
    known = {key(each.method, each.path) for each in operations}
    text += EXTENSION_HEAD
    for identity, route in served.items():
        if identity not in known:
            request = f"{route.method} {route.pattern.replace(':path', '')}"
            text += f"| `{request}` | {EXTENSION[request]} |\n"
    return text


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--check", action="store_true", help="compare only; exit code 1 when the page is stale"
    )
    wanted = page(collect_routes(), read_operations())
    if options.parse_args().check:
        sys.exit(0 if PAGE.read_text() == wanted else f"{PAGE.name} is stale: run tools/api_reference.py")
    PAGE.write_text(wanted)


if __name__ == "__main__":
    main()
