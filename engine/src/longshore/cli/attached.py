"""Being attached to a container: its streams on this terminal, our signals in it, its exit code as ours."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from longshore.cli.client import Client
from longshore.cli.context import ApiError
from longshore.cli.terminal import Detached, Pump, detach_keys, handled, raw_terminal, window_size

PROXIED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
           signal.SIGCONT, signal.SIGALRM)  # fmt: skip


def run_attached(
    api: Client,
    path: str,
    *,
    streams: set[str],
    tty: bool,
    sig_proxy: bool,
    keys: str,
    until: str,
    start: Callable[[], Any] | None = None,
) -> int:
    """Join the container at `path` until it ends; its exit code, 0 when the user detached.

    `start` is called once we are attached and wait for its end, so that nothing can be missed. `until` is the
    condition of the wait. Raises ApiError and FlagError (bad `keys`).
    """
    sequence = detach_keys(keys)
    query = {
        "stream": True,
        "detachKeys": keys,
        **{name: name in streams for name in ("stdin", "stdout", "stderr")},
    }
    upgraded = api.upgrade(f"{path}/attach", query)
    waiting = api.request("POST", f"{path}/wait", {"condition": until})
    if start is not None:
        start()
    stdin = "stdin" in streams
    try:
        with (
            follow_window(api, f"{path}/resize", active=tty),
            proxied(api, path, active=sig_proxy and not tty),
            raw_terminal(tty and stdin),
        ):
            Pump(upgraded, stdin=stdin, tty=tty, keys=sequence).run()
    except Detached:
        return 0
    return int(waiting.json()["StatusCode"])


def proxied(api: Client, path: str, *, active: bool) -> Any:
    """Signals of ours are the container's while inside; a raw terminal sends its own."""
    if not active:
        return handled({})

    def pass_on(number: int) -> Callable[[], None]:
        def send() -> None:
            try:
                api.request("POST", f"{path}/kill", {"signal": str(number)}).read()
            except ApiError:
                pass  # it has just ended

        return send

    return handled({number: pass_on(number) for number in PROXIED})


def follow_window(api: Client, path: str, *, active: bool) -> Any:
    """Tell the size of our terminal now and whenever it changes."""

    def tell() -> None:
        if size := window_size():
            try:
                api.request("POST", path, {"h": size[0], "w": size[1]}).read()
            except ApiError:
                pass  # it has just ended

    if not active:
        return handled({})
    tell()
    return handled({signal.SIGWINCH: tell})
