"""How lists are shown: rows, tables, filters, templates."""

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from longshore.cli import output
from longshore.cli.disk import usage_rows
from longshore.cli.events import event_line
from longshore.cli.flags import FlagError
from longshore.cli.images import image_rows
from longshore.cli.listing import container_row, port_text
from longshore.cli.stats import cpu_percent, memory_used, stats_row
from longshore.cli.system import info_lines
from longshore.cli.template import Template
from longshore.errors import InvalidArgument

VALUE: Mapping[str, Any] = {
    "Name": "web",
    "N": 3,
    "List": ["a", "b"],
    "Map": {"b": 1, "k.x": 2},
    "None": None,
    "True": True,
    "State": {"Status": "up"},
    "Ports": {"80/tcp": [{"HostPort": "8080"}], "53/udp": None},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "web"),
        ("{{ .State.Status }}\t{{.N}}", "up\t3"),
        ("{{json .List}}{{json .None}}{{json .State}}", '["a","b"]null{"Status":"up"}'),
        ("{{.True}} {{.List}} {{.Map}} {{.None}}", "true [a b] map[b:1 k.x:2] <no value>"),
        ('{{index .Map "k.x"}} {{index .List 1}}', "2 b"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        ('{{len .List}} {{upper .Name}} {{lower "X"}} {{title "ab cd"}}', "2 WEB x Ab Cd"),
        ('{{join .List ","}} {{split "a/b" "/"}} {{truncate .Name 2}} {{pad "x" 1 2}}|', "a,b [a b] we  x  |"),
        ('{{.Name | upper | printf "%-5s|"}}', "WEB  |"),
        ('{{printf "%q %d %v %05.1f %x %t %%" "a" 3 .List 2.5 255 true}}', '"a" 3 [a b] 002.5 ff true %'),
        ("{{println .Name}}{{print 1 2 .Name}}", "web\n1 2web"),
        ("{{range .List}}[{{.}}]{{end}}", "[a][b]"),
        ("{{range $i, $x := .List}}{{$i}}={{$x}};{{end}}", "0=a;1=b;"),
        ("{{range $k, $v := .Map}}{{$k}}={{$v}};{{end}}", "b=1;k.x=2;"),
        ("{{range .None}}x{{else}}none{{end}}", "none"),
        ('{{range .List}}{{if eq . "b"}}{{break}}{{end}}{{.}}{{end}}', "a"),
        ('{{range .List}}{{if eq . "a"}}{{continue}}{{end}}{{.}}{{end}}', "b"),
        ("{{if .None}}a{{else if .True}}b{{else}}c{{end}}", "b"),
        ('{{if and .True (eq .Name "x" "web")}}yes{{end}}', "yes"),
        ("{{if not .None}}{{or .None .Name}}{{end}}", "web"),
        ("{{if gt .N 2}}{{if le .N 3}}in{{end}}{{end}}", "in"),
        ("{{with .State}}{{.Status}} of {{$.Name}}{{end}}", "up of web"),
        ("{{$x := 1}}{{range .List}}{{$x = 5}}{{end}}{{$x}}", "5"),
        ("a {{- .Name -}} b", "awebb"),
        ("{{/* nothing */}}x", "x"),
        ("{{.Map.nokey}}", "<no value>"),
        ("{{`raw`}} {{slice .Name 1}} {{slice .Name 0 1}}", "raw eb w"),
        ('{{range $p, $c := .Ports}}{{if $c}}{{$p}} -> {{(index $c 0).HostPort}}{{end}}{{end}}', "80/tcp -> 8080"),
        ('{{"}}"}}', "}}"),
    ],
)  # fmt: skip
def test_templates(template: str, text: str) -> None:
    assert Template(template).render(VALUE) == text


@pytest.mark.parametrize(
    "template",
    ["{{.Nothing}}", "{{.Name.X}}", "{{.None.X}}", "{{foo .}}", "{{.Name", "{{end}}", "{{if .N}}", "{{if}}x{{end}}",
     "{{range .Name}}{{end}}", "{{index .List 9}}", "{{$x}}", "{{define \"x\"}}{{end}}", "{{.N 1}}", "{{len 3}}",
     "{{break}}", "{{else}}", "{{(.N}}", "{{.N | }}", "{{lt .N .Name}}", "{{upper .N}}", "{{\"a}}"],
)  # fmt: skip
def test_bad_templates_are_refused_in_words(template: str) -> None:
    with pytest.raises(InvalidArgument, match="template"):
        Template(template).render(VALUE)


def shown(capsys: pytest.CaptureFixture[str], **how: Any) -> str:
    rows = [
        {"ID": "1", "Name": "a", "Label": {"x": "y"}.get},
        {"ID": "22", "Name": "a-long-name", "Label": {}.get},
    ]
    output.show(rows, {"ID": "THE ID", "Name": "NAME"}, **how)
    return capsys.readouterr().out


def test_lists_as_tables_templates_json_and_ids(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys) == "THE ID    NAME\n1         a\n22        a-long-name\n"
    assert shown(capsys, format="table") == shown(capsys)
    assert shown(capsys, default="Name ID") == "NAME          THE ID\na             1\na-long-name   22\n"
    assert shown(capsys, quiet="ID", format="{{.Name}}") == "1\n22\n"
    assert shown(capsys, format="{{.ID}}\\t{{.Name}}") == "1\ta\n22\ta-long-name\n"
    assert json.loads(shown(capsys, format="json").splitlines()[0]) == {
        "ID": "1",
        "Name": "a",
    }
    assert shown(capsys, format="{{json .}}") == shown(capsys, format="json")
    assert (
        shown(capsys, format='table {{upper .Name}}\\t{{.Label "x"}}')
        == "NAME          x\nA             y\nA-LONG-NAME   <no value>\n"
    )
    with pytest.raises(InvalidArgument):
        shown(capsys, format="{{.Nothing}}")


def test_columns_end_where_no_line_has_a_cell() -> None:
    assert (
        output.aligned(["a\tb\tc", "longer-than-ten\tb", "x"])
        == "a                 b         c\nlonger-than-ten   b\nx\n"
    )
    assert output.aligned(["a\tb"], least=20) == "a                   b\n"
    assert output.aligned([]) == ""


def test_filters() -> None:
    assert output.parse_filters(["Label = a=b", "label=c"]) == {"label": ["a=b", "c"]}
    assert output.parse_filters([]) is None
    with pytest.raises(FlagError):
        output.parse_filters(["x"])


def test_points_in_time() -> None:
    assert output.point_in_time("", "--since") == ""
    assert output.point_in_time("12.5", "--since") == "12.5"
    assert output.point_in_time("1970-01-01T00:00:10Z", "--since") == "10.000000000"
    assert abs(float(output.point_in_time("10m", "--since")) - (time.time() - 600)) < 60
    with pytest.raises(FlagError, match="--since"):
        output.point_in_time("yesterday", "--since")


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([{"PrivatePort": 53, "Type": "udp"}], "53/udp"),
        ([{"PrivatePort": 80, "PublicPort": 8080, "IP": "0.0.0.0", "Type": "tcp"}], "0.0.0.0:8080->80/tcp"),
        ([{"PrivatePort": 80, "PublicPort": 8080, "IP": "::", "Type": "tcp"}], "[::]:8080->80/tcp"),
        (
            [{"PrivatePort": n, "PublicPort": n, "IP": "0.0.0.0", "Type": "tcp"} for n in (82, 81, 83, 90)],
            "0.0.0.0:81-83->81-83/tcp, 0.0.0.0:90->90/tcp",
        ),
        ([{"PrivatePort": n, "Type": "tcp"} for n in (1, 2)], "1-2/tcp"),
    ],
)
def test_ports_of_a_container(ports: list[dict[str, Any]], text: str) -> None:
    assert port_text(ports) == text


def test_a_container_line_has_dockers_columns() -> None:
    view = {
        "Id": "f" * 64,
        "Image": "busybox",
        "Command": "sleep 1000000000000000000000",
        "Created": 0,
        "Status": "Up 2 minutes",
        "State": "running",
        "Ports": [{"PrivatePort": 80, "PublicPort": 8080, "IP": "0.0.0.0", "Type": "tcp"}],
        "Names": ["/web"],
        "Labels": None,
    }
    row = container_row(view, truncate=True)
    assert (row["ID"], row["Command"], row["Names"]) == (
        "f" * 12,
        '"sleep 1000000000000…"'.replace("000…", "000…"),
        "web",
    )
    assert row["Ports"] == "0.0.0.0:8080->80/tcp"
    assert row["CreatedAt"] == "1970-01-01 00:00:00 +0000 UTC"
    assert (row["Image"], row["Mounts"]) == ("busybox", "")


def test_a_container_line_is_short_where_docker_is() -> None:
    image = "sha256:" + "abc" * 21 + "d"
    mounts = [{"Type": "tmpfs", "Source": ""}, {"Name": "v" * 64}, {"Source": "/a/folder"}]
    view = {"Id": "f" * 64, "Image": image, "ImageID": image, "Command": "", "Created": 0, "Status": "",
            "State": "", "Names": ["/x"], "Mounts": mounts}  # fmt: skip
    row = container_row(view, truncate=True)
    assert (row["Image"], row["Mounts"]) == ("abcabcabcabc", f",{'v' * 14}…,/a/folder")
    row = container_row(view, truncate=False)
    assert (row["Image"], row["Mounts"]) == (image, f",{'v' * 64},/a/folder")


def test_images_show_a_line_per_tag() -> None:
    view = {
        "Id": "sha256:" + "a" * 64,
        "RepoTags": ["a:1", "localhost:5000/a:2"],
        "RepoDigests": ["a@sha256:b"],
        "Created": 0,
        "Size": 1000,
    }
    rows = image_rows(view, truncate=True)
    assert [(row["Repository"], row["Tag"], row["Digest"]) for row in rows] == [
        ("a", "1", "sha256:b"),
        ("localhost:5000/a", "2", "<none>"),
    ]
    assert image_rows({**view, "RepoTags": [], "RepoDigests": []}, truncate=True)[0]["Repository"] == "<none>"


def sample(used: int, before: int, **memory: Any) -> dict[str, Any]:
    return {
        "id": "f" * 64,
        "name": "/web",
        "cpu_stats": {"cpu_usage": {"total_usage": used}, "system_cpu_usage": 2000, "online_cpus": 2},
        "precpu_stats": {"cpu_usage": {"total_usage": before}, "system_cpu_usage": 1000},
        "memory_stats": memory,
        "networks": {"eth0": {"rx_bytes": 1500, "tx_bytes": 1}, "eth1": {"rx_bytes": 500, "tx_bytes": 1}},
        "blkio_stats": {
            "io_service_bytes_recursive": [{"op": "Read", "value": 7}, {"op": "write", "value": 8}]
        },
        "pids_stats": {"current": 4},
    }


def test_stats_of_both_cgroup_versions() -> None:
    assert cpu_percent(sample(600, 100)) == 100.0
    assert cpu_percent(sample(100, 100)) == 0.0
    assert memory_used({"usage": 100, "stats": {"total_inactive_file": 30, "inactive_file": 1}}) == 70
    assert memory_used({"usage": 100, "stats": {"inactive_file": 40}}) == 60
    assert memory_used({"usage": 100, "stats": {"inactive_file": 400}}) == 100
    assert memory_used({}) == 0
    row = stats_row("web", sample(600, 100, usage=1 << 20, limit=4 << 20), truncate=True)
    assert row == {
        "Container": "web", "ID": "f" * 12, "Name": "web", "CPUPerc": "100.00%", "MemUsage": "1MiB / 4MiB",
        "MemPerc": "25.00%", "NetIO": "2kB / 2B", "BlockIO": "7B / 8B", "PIDs": "4",
    }  # fmt: skip
    stopped = stats_row("web", {**sample(0, 0), "networks": None, "blkio_stats": None}, truncate=False)
    assert (stopped["MemPerc"], stopped["NetIO"], stopped["BlockIO"]) == ("0.00%", "0B / 0B", "0B / 0B")


def test_disk_use_counts_what_could_go() -> None:
    rows = usage_rows(
        {
            "LayersSize": 1000,
            "Images": [
                {"Containers": 1, "Size": 600, "SharedSize": 100},
                {"Containers": 0, "Size": 1, "SharedSize": 0},
            ],
            "Containers": [{"State": "running", "SizeRw": 10}, {"State": "exited", "SizeRw": 30}],
            "Volumes": [
                {"UsageData": {"Size": 5, "RefCount": 0}},
                {"UsageData": {"Size": -1, "RefCount": 1}},
            ],
            "BuildCache": None,
        }
    )
    assert [tuple(row.values()) for row in rows] == [
        ("Images", "2", "1", "1kB", "500B (50%)"),
        ("Containers", "2", "1", "40B", "30B (75%)"),
        ("Local Volumes", "2", "1", "5B", "5B (100%)"),
        ("Build Cache", "0", "0", "0B", "0B"),
    ]


def test_an_event_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    event = {"Type": "container", "Action": "die", "timeNano": 1_500_000_000,
             "Actor": {"ID": "x", "Attributes": {"exitCode": "0", "name": "web"}}}  # fmt: skip
    assert event_line(event) == "1970-01-01T00:00:01.500000000Z container die x (exitCode=0, name=web)"
    assert event_line({**event, "Actor": {"ID": "x"}}).endswith("container die x")


def test_info_tells_only_what_there_is() -> None:
    assert " Server Version: 1" in info_lines({"ServerVersion": "1"})
    lines = info_lines({"SecurityOptions": ["name=seccomp,profile=builtin"], "Labels": ["a=b"]})
    at = lines.index("  seccomp")
    assert lines[at + 1] == "   Profile: builtin"
    assert "  a=b" in lines
