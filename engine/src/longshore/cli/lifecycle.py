"""What is done to whole containers by name: stop, kill, pause, remove, rename, wait, prune."""

from __future__ import annotations

from typing import Any

from longshore.cli import completers
from longshore.cli.client import segment
from longshore.cli.context import ApiError, client, complain, confirmed, each
from longshore.cli.flags import command, flag, many, number, one, several, text
from longshore.cli.output import emit, items, parse_filters
from longshore.oci.units import human_size

_containers = several("containers", "CONTAINER", complete=completers.containers)
_running = several("containers", "CONTAINER", complete=completers.running)


def _post_each(names: tuple[str, ...], action: str, **query: Any) -> None:
    api = client()
    each(names, lambda name: api.request("POST", f"/containers/{segment(name)}/{action}", query).read())


@command("stop")
@text("-s", "--signal", help="Signal to send first.")
@number("-t", "--timeout", help="Seconds to wait before SIGKILL.")
@_running
def stop_command(containers: tuple[str, ...], signal: str, timeout: int | None) -> None:
    """Stop running containers."""
    _post_each(containers, "stop", signal=signal, t=timeout)


@command("restart")
@text("-s", "--signal", help="Signal to send first.")
@number("-t", "--timeout", help="Seconds to wait before SIGKILL.")
@_containers
def restart_command(containers: tuple[str, ...], signal: str, timeout: int | None) -> None:
    """Stop and start containers."""
    _post_each(containers, "restart", signal=signal, t=timeout)


@command("kill")
@text("-s", "--signal", help="Name or number; KILL otherwise.")
@_running
def kill_command(containers: tuple[str, ...], signal: str) -> None:
    """Send a signal to running containers."""
    _post_each(containers, "kill", signal=signal)


@command("pause")
@_running
def pause_command(containers: tuple[str, ...]) -> None:
    """Freeze all processes of containers."""
    _post_each(containers, "pause")


@command("unpause")
@several("containers", "CONTAINER", complete=completers.paused)
def unpause_command(containers: tuple[str, ...]) -> None:
    """Thaw the processes of containers."""
    _post_each(containers, "unpause")


@command("rm")
@flag("-f", "--force", help="Also running ones; they are killed.")
@flag("-l", "--link", help="Remove the link, not the container.")
@flag("-v", "--volumes", help="Also their anonymous volumes.")
@_containers
def rm_command(containers: tuple[str, ...], force: bool, link: bool, volumes: bool) -> None:
    """Remove containers."""
    api = client()

    def remove(name: str) -> None:
        query = {"force": force, "link": link, "v": volumes}
        try:
            api.request("DELETE", f"/containers/{segment(name.strip('/'))}", query).read()
        except ApiError as error:
            if not (force and error.status == 404):
                raise
            complain(error)  # --force: not being there is no failure

    each(containers, remove)


@command("rename")
@one("container", "CONTAINER", complete=completers.containers)
@one("name", "NEW_NAME")
def rename_command(container: str, name: str) -> None:
    """Rename a container."""
    client().post(f"/containers/{segment(container)}/rename", name=name)


@command("wait")
@_containers
def wait_command(containers: tuple[str, ...]) -> None:
    """Wait until containers have ended and print their exit codes."""
    api = client()
    each(
        containers,
        lambda name: emit(str(api.post(f"/containers/{segment(name)}/wait")["StatusCode"])),
        echo=False,
    )


@command("prune")
@many("--filter", "filters", help="Only what matches: until=24h, label=name=value.", metavar="filter")
@flag("-f", "--force", help="Do not ask.")
def prune_command(filters: tuple[str, ...], force: bool) -> None:
    """Remove all stopped containers."""
    wanted = parse_filters(filters)
    if not confirmed("This will remove all stopped containers.", force=force):
        return
    done = client().request("POST", "/containers/prune", {"filters": wanted}).json()
    if names := items(done, "ContainersDeleted"):
        emit("\n".join(["Deleted Containers:", *names, ""]))
    emit(f"Total reclaimed space: {human_size(done['SpaceReclaimed'])}")
