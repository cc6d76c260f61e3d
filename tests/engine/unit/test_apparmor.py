"""The text of the default profile, and what the kernel says about profiles."""

import shutil
import subprocess

import pytest

from longshore.runtime import apparmor


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("unconfined\n", "unconfined"),
        ("longshore-default (enforce)\n", "longshore-default"),
        ("\0", "unconfined"),
        ("", "unconfined"),
    ],
)
def test_labels(text: str, label: str) -> None:
    assert apparmor.parse_label(text) == label


def test_the_daemon_may_signal_and_containers_may_not_mount() -> None:
    text = apparmor.profile_text("/usr/sbin/longshored")
    assert text.count("{") == text.count("}")
    assert "signal (receive) peer=/usr/sbin/longshored," in text
    assert "profile longshore-default " in text and "deny mount," in text


@pytest.mark.skipif(not shutil.which("apparmor_parser"), reason="no apparmor_parser here")
def test_the_parser_takes_it() -> None:
    text = apparmor.profile_text("unconfined")
    done = subprocess.run(
        ["apparmor_parser", "--skip-kernel-load", "--skip-cache"], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
