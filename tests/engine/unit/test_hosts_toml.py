"""certs.d: which hosts are asked for a registry, and how."""

from pathlib import Path

import pytest

from longshore.errors import InvalidArgument
from longshore.registry.hosts import EVERYTHING, Endpoint, Mirror, RegistryRules, Tls
from longshore.registry.hosts_toml import plan_endpoints
from longshore.registry.tls import context

DOMAIN = "reg.example:5000"


@pytest.fixture
def rules(tmp_path: Path) -> RegistryRules:
    return RegistryRules(
        config_path=(str(tmp_path / "nothing"), str(tmp_path)),
        mirrors=(Mirror("https", "mirror.example", "/hub"),),
        insecure=("plain.example",),
    )


def write(root: Path, text: str, folder: str = DOMAIN) -> Path:
    path = root / folder / "hosts.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_without_files(rules: RegistryRules) -> None:
    assert plan_endpoints(rules, DOMAIN, "pull") == [Endpoint(DOMAIN)]
    assert plan_endpoints(rules, "docker.io", "pull") == [
        Endpoint("mirror.example", root="/hub/v2", is_mirror=True),
        Endpoint("registry-1.docker.io"),
    ]
    assert plan_endpoints(rules, "docker.io", "push") == [Endpoint("registry-1.docker.io")]
    plain = Endpoint("plain.example", ("https", "http"), tls=Tls(skip_verify=True))
    assert plan_endpoints(rules, "plain.example", "pull") == [plain]


def test_a_whole_file(rules: RegistryRules, tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        server = "https://reg.example:5000"
        ca = "/etc/own.crt"
        [host."https://one.example/v2/proxy"]
          capabilities = ["pull"]
          ca = ["a.crt", "/b.crt"]
          client = [["c.cert", "c.key"], ["d.pem", ""]]
          skip_verify = true
          override_path = true
          dial_timeout = "1m1.5s"
          [host."https://one.example/v2/proxy".header]
            x-one = "1"
            x-two = ["2", "3"]
          [host."https://one.example/v2/proxy".rewrite]
            "^team/(.*)" = "other/$1"
        [host."http://two.example/path"]
        """,
    )
    one = Endpoint(
        "one.example",
        root="/v2/proxy",
        capabilities=frozenset({"pull"}),
        tls=Tls(
            (str(tmp_path / DOMAIN / "a.crt"), "/b.crt"),
            (
                (str(tmp_path / DOMAIN / "c.cert"), str(tmp_path / DOMAIN / "c.key")),
                (str(tmp_path / DOMAIN / "d.pem"), ""),
            ),
            skip_verify=True,
        ),
        headers=(("x-one", "1"), ("x-two", "2"), ("x-two", "3")),
        rewrites=(("^team/(.*)", r"other/\g<1>"),),
        namespace=DOMAIN,
        is_mirror=True,
        dial_timeout=61.5,
    )
    two = Endpoint("two.example", ("http",), "/path/v2", namespace=DOMAIN, is_mirror=True)
    own = Endpoint(DOMAIN, tls=Tls(("/etc/own.crt",)))
    assert plan_endpoints(rules, DOMAIN, "pull") == [one, two, own]
    assert plan_endpoints(rules, DOMAIN, "resolve") == [two, own]
    assert (one.repository("team/app"), one.repository("app")) == ("other/app", "app")


def test_the_server_decides_where_the_login_goes(rules: RegistryRules, tmp_path: Path) -> None:
    write(tmp_path, 'server = "https://other.example"')
    (only,) = plan_endpoints(rules, DOMAIN, "push")
    assert (only.host, only.is_mirror, only.capabilities) == ("other.example", True, EVERYTHING)
    write(tmp_path, 'server = "https://docker.io"', "docker.io")
    (hub,) = plan_endpoints(rules, "docker.io", "pull")
    assert (hub.host, hub.is_mirror, hub.namespace) == ("registry-1.docker.io", False, "")


def test_folders_in_their_order(rules: RegistryRules, tmp_path: Path) -> None:
    names: list[str] = []
    for folder in ("_default", DOMAIN, "reg.example_5000_"):
        write(tmp_path, f'[host."https://{folder.strip("_")[:3]}.example"]', folder)
        names.append(plan_endpoints(rules, DOMAIN, "pull")[0].host)
    assert names == ["def.example", "reg.example", "reg.example"]
    write(tmp_path, "", "reg.example_5000_")
    assert plan_endpoints(rules, DOMAIN, "pull") == [Endpoint(DOMAIN)]
    assert plan_endpoints(rules, "reg.example", "pull")[0].host == "def.example"


def test_dockers_certificates(rules: RegistryRules, tmp_path: Path) -> None:
    folder = tmp_path / DOMAIN
    folder.mkdir()
    for name in ("ca.crt", "client.cert", "client.key"):
        (folder / name).touch()
    (own,) = plan_endpoints(rules, DOMAIN, "pull")
    assert own.tls == Tls(
        (str(folder / "ca.crt"),), ((str(folder / "client.cert"), str(folder / "client.key")),)
    )
    with pytest.raises(InvalidArgument, match="cannot use the certificates"):
        context(own.tls)
    (folder / "client.key").unlink()
    with pytest.raises(InvalidArgument, match=r"missing key client\.key"):
        plan_endpoints(rules, DOMAIN, "pull")
    (folder / "client.cert").rename(folder / "other.key")
    with pytest.raises(InvalidArgument, match=r"missing client certificate other\.cert"):
        plan_endpoints(rules, DOMAIN, "pull")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server = 5", "server: a string"),
        ("server = ", "cannot read"),
        ('[host."ftp://x"]', "host 'ftp://x'"),
        ('[host."https://me:pw@x"]', "a URL like"),
        ('[host."https://x"]\nnonsense = 1', "nonsense: a key that"),
        ('[host."https://x"]\ncapabilities = ["fly"]', "capability 'fly'"),
        ('[host."https://x"]\ncapabilities = [1]', "capabilities: a string or"),
        ('[host."https://x"]\nskip_verify = "yes"', "skip_verify: true or false"),
        ('[host."https://x"]\nclient = [["a"]]', "client: a path"),
        ('[host."https://x"]\nheader = 1', "header: a table"),
        ('[host."https://x".header]\nx = "a\\r\\nb"', "a header of one line"),
        ('[host."https://x".header]\n"x y" = "a"', "a header of one line"),
        ('[host."https://x".rewrite]\n"(" = "a"', "a regular expression"),
        ('[host."https://x".rewrite]\n"a" = "$1"', "a regular expression"),
        ('[host."https://x"]\ndial_timeout = "soon"', "a duration like"),
    ],
)
def test_mistakes_are_named(rules: RegistryRules, tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidArgument) as caught:
        plan_endpoints(rules, DOMAIN, "pull")
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
