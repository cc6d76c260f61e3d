"""Attack 20: an image that was pulled or loaded poses as a step of a build (CVE-2024-24557)."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from runtime_lab import needs_root
from tests.engine.compat.build_lab import config, good, output
from tests.engine.images import busybox_layer, docker_archive

pytestmark = needs_root


@pytest.fixture
def api(daemon: Any) -> Iterator[Any]:
    if daemon.request("GET", "/images/busybox/json")[0] != 200:
        daemon.load()
    yield daemon
    daemon.request("POST", "/build/prune?all=1")


def evil_layer(name: str = "evil") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 5
        tar.addfile(info, io.BytesIO(b"evil\n"))
    return stream.getvalue()


def crafted(
    layers: list[bytes], tag: str, history: list[dict[str, Any]], parent: str, **defaults: Any
) -> bytes:
    """An archive whose image says that these steps on that parent gave it."""
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(docker_archive(layers, tag, defaults))) as source:
        for member in source:
            file = source.extractfile(member)
            if file is not None:
                members[member.name] = file.read()
    manifest = json.loads(members.pop("manifest.json"))
    value = json.loads(members.pop(manifest[0]["Config"])) | {"history": history, "parent": parent}
    value["container_config"] = {"Cmd": ["/bin/sh", "-c", history[-1]["created_by"]]}
    data = json.dumps(value).encode()
    manifest[0]["Config"] = f"{hashlib.sha256(data).hexdigest()}.json"
    members |= {manifest[0]["Config"]: data, "manifest.json": json.dumps(manifest).encode()}
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return target.getvalue()


def test_attack_20_a_run_that_a_loaded_image_claims_to_have_done(api: Any) -> None:
    """The image tells by history, parent and configuration that it is `RUN make` on busybox. Fails when the cache is
    asked for an image with that parent and command."""
    base = config(api, "busybox")
    command = "echo made > /made"
    told = [entry["CreatedBy"] for entry in reversed(api.request("GET", "/images/busybox/history")[1])]
    steps = [{"created_by": words} for words in (*told, f"/bin/sh -c {command}")]
    image = crafted(
        [busybox_layer(), evil_layer()], "poison:1", steps, base["Id"], Env=base["Config"].get("Env")
    )
    api.load(image)
    built = good(api, f"FROM busybox\nRUN {command}\n")
    assert built.cached == 0
    assert output(api, built.id, "sh", "-c", "cat /made; ls /evil 2>/dev/null || true") == "made\n"
    api.request("DELETE", "/images/poison:1?force=1")


@pytest.mark.parametrize(
    ("instruction", "field", "given", "wanted"),
    [
        ('HEALTHCHECK CMD ["/ok"]', "Healthcheck", {"Test": ["CMD", "/evil"]}, {"Test": ["CMD", "/ok"]}),
        ("ONBUILD RUN true", "OnBuild", ["RUN /evil"], ["RUN true"]),
        ('ENTRYPOINT ["/ok"]', "Entrypoint", ["/evil"], ["/ok"]),
    ],
)
def test_attack_20_a_configuration_that_nobody_wrote(
    api: Any, instruction: str, field: str, given: Any, wanted: Any
) -> None:
    """FROM scratch with a HEALTHCHECK, ONBUILD or ENTRYPOINT; an image says to be just that step, with another value.
    Fails when a step that only configures takes its configuration from an image that was loaded."""
    words = f"/bin/sh -c #(nop)  {instruction}"
    api.load(
        crafted(
            [evil_layer()], "poison:2", [{"created_by": words, "empty_layer": True}], "", **{field: given}
        )
    )
    built = good(api, f"FROM scratch\n{instruction}\n")
    found = config(api, built.id)["Config"]
    value = found[field] if field != "Healthcheck" else {"Test": found[field]["Test"]}
    assert value == wanted
    assert not config(api, built.id)["RootFS"].get("Layers")
    api.request("DELETE", "/images/poison:2?force=1")


def test_attack_20_files_that_were_swapped_under_the_same_name(api: Any) -> None:
    """The tag of a stage's base moves to another image between two builds, and a file changes with equal size and
    time. Fails when keys hold names or times instead of contents."""
    text = "FROM base:1\nCOPY a /a\nRUN cat /a /base > /out\n"
    api.load(
        docker_archive([busybox_layer(), evil_layer("base")], "base:1", {"Cmd": ["sh"], "Env": ["PATH=/bin"]})
    )
    first = good(api, text, {"a": "1\n"})
    again = good(api, text, {"a": "1\n"})
    assert (again.cached, again.id) == (2, first.id)
    other = good(api, text, {"a": "2\n"})
    assert output(api, other.id, "cat", "/out") == "2\nevil\n"
    api.request("DELETE", "/images/base:1?force=1")
    changed = io.BytesIO()
    with tarfile.open(fileobj=changed, mode="w") as tar:
        info = tarfile.TarInfo("base")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"good\n"))
    api.load(
        docker_archive([busybox_layer(), changed.getvalue()], "base:1", {"Cmd": ["sh"], "Env": ["PATH=/bin"]})
    )
    moved = good(api, text, {"a": "1\n"})
    assert output(api, moved.id, "cat", "/out") == "1\ngood\n"
    api.request("DELETE", "/images/base:1?force=1")
