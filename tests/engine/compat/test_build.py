"""Builds through the classic door: what the Dockerfile reference promises, on a real engine."""

import json
import re
import threading
from typing import Any

import pytest
from tests.engine.compat.build_lab import Built, build, config, good, output

pytestmark = pytest.mark.usefixtures("busybox")


@pytest.fixture
def busybox(daemon: Any) -> None:
    if daemon.request("GET", "/images/busybox/json")[0] != 200:
        daemon.load()


def said(built: Built) -> str:
    return re.sub(r"\x1b\[\d+m", "", built.text)


def test_here_documents(daemon: Any) -> None:
    built = good(
        daemon,
        "FROM busybox\nENV WHO=you\n"
        "RUN <<EOF\necho one > /out\necho $WHO >> /out\nEOF\n"
        "RUN <<EOF cat >> /out && echo after >> /out\ninside\nEOF\n"
        "RUN <<EOF\n#!/bin/sh -e\necho script >> /out\nEOF\n"
        "COPY <<EOF <<'RAW' <<-TABS /d/\nhi $WHO\nEOF\nhi $WHO\nRAW\n\t\ttab\n\tTABS\n",
    )
    assert output(daemon, built.id, "cat", "/out") == "one\nyou\ninside\nafter\nscript\n"
    assert output(daemon, built.id, "cat", "/d/EOF", "/d/RAW", "/d/TABS") == "hi you\nhi $WHO\ntab\n"
    assert output(daemon, built.id, "sh", "-c", "ls -d /dev/pipes || true") == ""


def test_mounts_of_run(daemon: Any) -> None:
    text = (
        "FROM busybox AS tool\nRUN mkdir -p /opt/deep && echo fromstage > /opt/deep/f && ln -s deep /opt/link\n"
        "FROM busybox\n"
        "RUN --mount=type=bind,target=/src cat /src/a.txt && ! touch /src/x\n"
        "RUN --mount=target=/src,rw touch /src/x && test -e /src/a.txt\n"
        "RUN --mount=type=bind,source=a.txt,target=/one cat /one\n"
        "RUN --mount=type=bind,from=tool,source=/opt/link,target=/t cat /t/f\n"
        "RUN --mount=type=bind,from=tool,source=/opt,target=/t,rw echo w > /t/deep/f && cat /t/deep/f\n"
        "RUN --mount=type=tmpfs,target=/scratch,size=1m df /scratch | grep -q tmpfs && touch /scratch/y\n"
        "RUN --mount=type=cache,id=$ID,target=/root/.cache,mode=0711 stat -c %a /root/.cache; "
        "echo run >> /root/.cache/log; wc -l < /root/.cache/log\n"
    )
    text = text.replace("FROM busybox\n", "FROM busybox\nARG ID=c1\n", 1)
    files = {"a.txt": "context\n", ".dockerignore": "Dockerfile"}
    first = good(daemon, text, files)
    assert "context\n" in said(first)
    assert "fromstage\n" in said(first)
    assert "\nw\n" in said(first)
    assert "711\n1\n" in said(first)
    # nothing of the mounts is in the image
    left = output(
        daemon, first.id, "sh", "-c", "ls -d /src /one /t /scratch /root/.cache 2>/dev/null || true"
    )
    assert left == ""
    again = good(daemon, text, files)
    assert again.cached == 8, said(again)
    assert again.id == first.id
    other = good(daemon, text + "RUN --mount=type=cache,id=c1,target=/e,mode=0711 wc -l < /e/log\n", files)
    assert re.search(r"\n1\n", said(other)), said(other)
    changed = good(daemon, text, files | {"a.txt": "changed\n"})
    assert "changed\n" in said(changed)


def test_one_cache_folder_is_shared_locked_or_private(daemon: Any) -> None:
    """Two RUNs beside one another in stages of their own; each leaves a mark while it is inside."""
    wait = "touch /c/in-$ME; n=0; while [ $n -lt 40 ]; do ls /c; n=$((n+1)); usleep 20000; done; rm /c/in-$ME"
    for sharing, together in (("shared", True), ("locked", False), ("private", False)):
        text = "".join(
            f"FROM busybox AS s{n}\nENV ME={n}\nRUN --mount=type=cache,id={sharing},target=/c,sharing={sharing} {wait}\n"
            for n in (1, 2)
        )
        text += "FROM scratch\nCOPY --from=s1 /etc/passwd /1\nCOPY --from=s2 /etc/passwd /2\n"
        built = good(daemon, text, nocache="1")
        assert ("in-1\nin-2" in said(built)) == together, (sharing, said(built))


def test_secrets_and_agents_that_nobody_gives(daemon: Any) -> None:
    good(daemon, "FROM busybox\nRUN --mount=type=secret,id=a --mount=type=ssh test ! -e /run/secrets/a\n")
    missing = build(daemon, "FROM busybox\nRUN --mount=type=secret,id=a,required=true true\n")
    assert "secret a: not found" in missing.error
    missing = build(daemon, "FROM busybox\nRUN --mount=type=ssh,required true\n")
    assert "no SSH key" in missing.error


def test_copy_with_all_its_flags(daemon: Any) -> None:
    built = good(
        daemon,
        "FROM busybox AS base\nRUN echo me:x:77:77::/:/bin/sh >> /etc/passwd\n"
        "COPY --chown=me --chmod=u=rwX,go=rX --exclude=*.md tree /t\n"
        "COPY --parents tree/./sub/*.txt /p/\nCOPY --link --chmod=640 a.txt /l/\n"
        "FROM base\nCOPY --from=base /t /kept\nADD --unpack=false x.tar /x/\nADD x.tar /y/\n",
        {
            "tree/": "",
            "tree/run": ("x", 0o755),
            "tree/no.md": "",
            "tree/sub/b.txt": "b",
            "a.txt": "a",
            "x.tar": tar_with_owner(),
        },
    )
    stat = (
        "sh",
        "-c",
        "cd /; stat -c '%n %u %a' t t/run t/sub/b.txt kept/run l/a.txt p/sub/b.txt x/x.tar y/inside",
    )
    assert output(daemon, built.id, *stat).splitlines() == [
        "t 77 755", "t/run 77 755", "t/sub/b.txt 77 644", "kept/run 77 755", "l/a.txt 0 640", "p/sub/b.txt 0 644",
        "x/x.tar 0 644", "y/inside 9 600",
    ]  # fmt: skip
    assert output(daemon, built.id, "sh", "-c", "ls /t /p") == "/p:\nsub\n\n/t:\nrun\nsub\n"


def tar_with_owner() -> bytes:
    import io
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("inside")
        info.uid, info.mode = 9, 0o600
        tar.addfile(info)
    return stream.getvalue()


def test_dockerignore_of_the_dockerfile_goes_first(daemon: Any) -> None:
    files = {
        ".dockerignore": "*",
        "Dockerfile.dockerignore": "**/*.log\n!keep/**\ndrop\n",
        "a.log": "",
        "keep/b.log": "",
        "drop/c": "",
        "d": "",
    }
    built = good(daemon, "FROM busybox\nCOPY . /c\n", files)
    found = output(daemon, built.id, "sh", "-c", "cd /c; find . -type f | sort")
    assert found.split() == [
        "./.dockerignore",
        "./Dockerfile",
        "./Dockerfile.dockerignore",
        "./d",
        "./keep/b.log",
    ]


def test_only_needed_stages_and_those_beside_one_another(daemon: Any) -> None:
    meet = "touch /c/$ME; until [ -e /c/1 ] && [ -e /c/2 ]; do usleep 10000; done"
    text = (
        "FROM busybox AS never\nRUN exit 9\n"
        f"FROM busybox AS s1\nENV ME=1\nRUN --mount=type=cache,id=meet,target=/c {meet}; echo one > /o\n"
        f"FROM busybox AS s2\nENV ME=2\nRUN --mount=type=cache,id=meet,target=/c {meet}; echo two > /o\n"
        "FROM busybox\nCOPY --from=s1 /o /1\nCOPY --from=1 /o /again\nCOPY --from=s2 /o /2\n"
    )
    built = good(daemon, text)
    assert output(daemon, built.id, "cat", "/1", "/again", "/2") == "one\none\ntwo\n"
    numbers = [int(n) for n in re.findall(r"^Step (\d+)/10 ", said(built), re.MULTILINE)]
    assert numbers == list(range(1, 11)), "clients know no other order"
    assert "exit 9" not in said(built)
    failed = build(daemon, text.replace("AS never", "AS early"), target="early")
    assert "returned a non-zero code: 9" in failed.error


def test_equal_steps_of_two_builds_run_once(daemon: Any) -> None:
    text = "FROM busybox\nRUN --mount=type=cache,id=once,target=/c usleep 700000; date +%s%N > /t; echo x >> /c/n\n"
    results: list[Built] = []
    threads = [threading.Thread(target=lambda: results.append(good(daemon, text))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = {output(daemon, built.id, "cat", "/t") for built in results}
    assert len(times) == 1


def test_arguments_and_platforms(daemon: Any) -> None:
    text = (
        "ARG BASE=busybox\nARG GLOBAL=g\nFROM --platform=$BUILDPLATFORM ${BASE%:*} AS b\n"
        "ARG GLOBAL\nARG TARGETPLATFORM\nARG TARGETARCH\nARG A=1 B=${A}2\nARG C\nENV C=env\n"
        "RUN echo $GLOBAL $TARGETPLATFORM $TARGETARCH $B $C ${D:-none} > /o\n"
        "FROM scratch\nCOPY --from=b /o /o\n"
    )
    built = good(daemon, text, buildargs={"C": "given", "A": "9"}, platform="linux/arm64")
    info = config(daemon, built.id)
    assert (info["Architecture"], info["Os"]) == ("arm64", "linux")
    native = good(daemon, text, buildargs={"BASE": "busybox:latest", "UNUSED": "1"}, target="b")
    machine = config(daemon, "busybox")["Architecture"]
    assert output(daemon, native.id, "cat", "/o") == f"g linux/{machine} {machine} 12 env none\n"
    assert "['UNUSED'] were not consumed" in said(native)


def test_triggers_of_a_base_image(daemon: Any) -> None:
    good(daemon, "FROM busybox\nONBUILD COPY a /a\nONBUILD RUN <<E\ncat /a > /b\nE\n", t="onbuild:1")
    built = good(daemon, "FROM onbuild:1\nRUN cat /b\n", {"a": "hello\n"})
    assert "# Executing 2 build triggers" in said(built)
    assert "hello\n" in said(built)
    assert not config(daemon, built.id)["Config"].get("OnBuild")
    daemon.docker("rmi", "-f", "onbuild:1")


def test_equal_inputs_and_an_epoch_give_the_same_image(daemon: Any) -> None:
    text = "FROM busybox\nARG SOURCE_DATE_EPOCH\nWORKDIR /made\nCOPY a /made/a\nENV X=1\n"
    first = good(daemon, text, {"a": "1"}, buildargs={"SOURCE_DATE_EPOCH": "1700000000"}, nocache="1")
    second = good(daemon, text, {"a": "1"}, buildargs={"SOURCE_DATE_EPOCH": "1700000000"}, nocache="1")
    assert first.id == second.id
    assert config(daemon, first.id)["Created"].startswith("2023-11-14T22:13:20")


def test_the_cache_is_listed_and_pruned(daemon: Any) -> None:
    built = good(
        daemon, "FROM busybox\nRUN echo prune-me > /x\nRUN --mount=type=cache,target=/pc echo y > /pc/y\n"
    )
    entries = daemon.request("GET", "/system/df")[1]["BuildCache"]
    mine = next(entry for entry in entries if "prune-me" in entry["Description"])
    assert (mine["Type"], mine["Shared"], mine["InUse"]) == ("regular", True, False)
    assert any(entry["Type"] == "exec.cachemount" and "/pc" in entry["Description"] for entry in entries)
    status, reply = daemon.request("POST", "/build/prune")
    assert status == 200
    assert mine["ID"] not in (reply["CachesDeleted"] or []), "an image has it"
    daemon.docker("rmi", "-f", built.id)
    filters = json.dumps({"id": {mine["ID"]: True}})
    from urllib.parse import quote

    reply = daemon.request("POST", f"/build/prune?filters={quote(filters)}")[1]
    assert reply["CachesDeleted"] == [mine["ID"]]
    assert reply["SpaceReclaimed"] > 0
    daemon.request("POST", "/build/prune?all=1")
    assert daemon.request("GET", "/system/df")[1]["BuildCache"] == []


def test_layers_of_the_cache_survive_their_image(daemon: Any) -> None:
    text = "FROM busybox\nRUN echo keep-me > /x\n"
    first = good(daemon, text)
    daemon.docker("rmi", "-f", first.id)
    again = good(daemon, text)
    assert (again.cached, again.id) == (1, first.id)


def test_squash_and_labels(daemon: Any) -> None:
    text = "FROM busybox\nRUN echo 1 > /a && mkdir /d && echo x > /d/x\nRUN rm /a /bin/vi && rm -r /d && mkdir /d\nLABEL l=1\n"
    built = good(daemon, text, squash="1", labels={"given": "yes"})
    info = config(daemon, built.id)
    assert len(info["RootFS"]["Layers"]) == len(config(daemon, "busybox")["RootFS"]["Layers"]) + 1
    assert info["Config"]["Labels"] == {"l": "1", "given": "yes"}
    assert output(daemon, built.id, "sh", "-c", "ls /a /bin/vi /d 2>/dev/null || true") == "/d:\n"


@pytest.mark.parametrize(
    ("text", "status", "problem"),
    [
        ("FROM busybox\nRUN --security=insecure true", 200, "security=insecure is not allowed"),
        ("FROM busybox\nRUN --network=host true", 200, "needs the entitlement network.host"),
        ("FROM busybox\nRUN --mount=type=bind,target=/x,source=/nope true", 200, "not found"),
        ("FROM busybox\nRUN --mount=type=what,target=/x true", 200, "unsupported mount type"),
        ("FROM busybox\nCOPY --from=nope-nope-nope /a /b", 200, "nope-nope-nope"),
        ("FROM busybox\nCOPY nope /b", 200, "file not found in build context"),
        ("# check=error=true\nFROM busybox as b\n", 400, "lint violation found for rules: FromAsCasing"),
        ("FROM busybox\nFOO\n", 400, "unknown instruction: FOO"),
    ],
)
def test_what_cannot_be_built(daemon: Any, text: str, status: int, problem: str) -> None:
    failed = build(daemon, text)
    assert failed.status == status, failed
    assert problem in failed.error, failed


def test_a_network_of_its_own_choice(daemon: Any) -> None:
    built = good(daemon, "FROM busybox\nRUN --network=none ip -o link | wc -l > /n\n")
    assert output(daemon, built.id, "cat", "/n") == "1\n"


def test_an_image_is_a_cache_when_it_is_named(daemon: Any) -> None:
    text = "FROM busybox\nENV A=1\nCOPY a /a\nRUN date +%N > /t\n"
    first = good(daemon, text, {"a": "1"}, t="source:1", nocache="1")
    daemon.request("POST", "/build/prune?all=1")
    assert daemon.request("GET", "/system/df")[1]["BuildCache"] == []
    again = good(daemon, text, {"a": "1"}, cachefrom=["source:1"])
    assert again.cached == 2
    assert output(daemon, again.id, "cat", "/t") == output(daemon, first.id, "cat", "/t")
    other = good(daemon, text, {"a": "2"}, cachefrom=["source:1"])
    assert other.cached == 1  # ENV alone: the file is another
    none = good(daemon, text, {"a": "1"}, cachefrom=["nosuch:1"])
    assert none.cached == 0
    daemon.docker("rmi", "-f", "source:1")
