"""`longshore login` and `logout`."""

from __future__ import annotations

import sys

import click

from longshore.cli.config import DOCKER_HUB, ConfigFile, server_key
from longshore.cli.context import client, warn
from longshore.cli.flags import command, flag, one, text
from longshore.cli.output import emit
from longshore.errors import EngineError


def config_file() -> ConfigFile:
    """The config.json that the global options name."""
    return ConfigFile(click.get_current_context().find_root().params.get("config") or "")


@command("login")
@text("-p", "--password", help="Password; others may see it in the list of processes.")
@flag("--password-stdin", help="Read the password from standard input.")
@text("-u", "--username", help="Name.")
@one("server", "[SERVER]", required=False)
def login_command(server: str, password: str, password_stdin: bool, username: str) -> None:
    """Log in to a registry, Docker Hub unless SERVER names another."""
    if password and password_stdin:
        raise click.UsageError("conflicting options: cannot specify both --password and --password-stdin")
    if password:
        warn("Using --password via the CLI is insecure. Use --password-stdin.")
    if password_stdin:
        if not username:
            raise click.UsageError("the --password-stdin option requires --username to be set")
        password = sys.stdin.read().rstrip("\r\n")
    config = config_file()
    key = server_key(server)
    stored = config.get(key)
    if not username and not password and stored:
        login = stored
        emit("Authenticating with existing credentials...")
    else:
        login = {**_asked(username, password, stored), "serveraddress": key}
    answer = client().request("POST", "/auth", None, login).json()
    if "username" in login:
        place = config.store(key, login["username"], login["password"], answer.get("IdentityToken") or "")
        if place == str(config.path):
            warn(f"Your credentials are stored unencrypted in '{place}'.")
    emit(answer.get("Status") or "Login Succeeded")


def _asked(username: str, password: str, stored: dict[str, str]) -> dict[str, str]:
    """Ask for what is missing. Raises EngineError without a terminal."""
    if not (username and password) and not sys.stdin.isatty():
        raise EngineError(
            "cannot perform an interactive login from a non TTY device",
            hint="use --username and --password-stdin",
        )
    if not username:
        known = stored.get("username", "")
        shown = f" ({known})" if known else ""
        username = input(f"Username{shown}: ").strip() or known
    if not password:
        from getpass import getpass

        password = getpass("Password: ")
    if not username or not password:
        raise EngineError("both a name and a password are needed")
    return {"username": username, "password": password}


@command("logout")
@one("server", "[SERVER]", required=False)
def logout_command(server: str) -> None:
    """Forget the login of a registry, of Docker Hub unless SERVER names another."""
    key = server_key(server)
    shown = server or DOCKER_HUB
    if config_file().erase(key):
        emit(f"Removing login credentials for {key}")
    else:
        emit(f"Not logged in to {shown}")
