"""Which ids of the host stand behind a container's."""

import pytest

from longshore.core import userns
from longshore.errors import Conflict, InvalidArgument
from longshore.oci.runtime_spec import IdMapping

POOL = [(1000, 300)]


def test_auto_takes_the_first_free_range() -> None:
    assert userns.owners_of("auto:size=100", POOL, []).uids == (IdMapping(0, 1000, 100),)
    assert userns.owners_of("auto:size=100", POOL, [(1000, 100), (1150, 10)]).uids == (
        IdMapping(0, 1160, 100),
    )
    with pytest.raises(Conflict, match="no 200 free ids"):
        userns.owners_of("auto:size=200", POOL, [(1100, 10)])


def test_host_is_no_namespace_and_map_is_what_it_says() -> None:
    assert not userns.owners_of("host", POOL, [])
    assert not userns.owners_of("", POOL, [])
    owners = userns.owners_of("map:0:5000:10,10:100:1", POOL, [])
    assert owners.gids == owners.uids == (IdMapping(0, 5000, 10), IdMapping(10, 100, 1))


@pytest.mark.parametrize(
    "text",
    ["x", "auto:size=0", "auto:size=99999999999", "map:", "map:0:1", "map:0:1:0", "map:1:1:1",
     "map:0:1:4294967295", "map:0:10:5,3:20:5", "map:0:10:5,5:12:5", "host:1", "container:x"],
)  # fmt: skip
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="UsernsMode"):
        userns.parse_mode(text)


def test_subordinate_ids() -> None:
    text = "# comment\nme:100:5\n7:200:6\nyou:300:7\nme:bad:1\n"
    assert userns.parse_subordinate(text, "me", "7") == [(100, 5), (200, 6)]


@pytest.mark.parametrize("text", ["", "0:5", "5", "1:0", "4294967290:100"])
def test_a_bad_range(text: str) -> None:
    with pytest.raises(InvalidArgument, match="range of ids"):
        userns.parse_range(text)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"privileged": True}, "privileged mode is incompatible"), ({"pid": "host"}, "the host's pid"), ({"network": "container:x"}, "network")],
)  # fmt: skip
def test_what_a_namespace_cannot_be_combined_with(given: dict[str, object], words: str) -> None:
    rest = {"privileged": False, "pid": "", "network": "bridge", "ipc": "private", "uts": ""} | given
    with pytest.raises(InvalidArgument, match=words):
        userns.check_conflicts("auto", **rest)  # type: ignore[arg-type]
    userns.check_conflicts("host", **rest)  # type: ignore[arg-type]
