"""Puts the engine on a host: the only installer, for hands, the role `engine` and pymachine alike.

Runs from the bundle, an executable zip (`python3 longshore-….pyz install`), and as
`/opt/longshore/current/bin/longshore-setup` afterwards. Standard library only, Python 3.11 or newer, no package index, with
systemd or without; nothing here imports the engine, and all imports among these files are relative, because in the zip
the package has another name. Every command may be run twice; upgrading and rolling back are the same step (switch one
link, restart the daemon) and never touch a running container.
"""

from .command_line import main, parser

__all__ = ["main", "parser"]
