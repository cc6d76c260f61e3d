"""Text that a shell evaluates to point Docker clients at a machine. Pure."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from pymachine.errors import InvalidInput

VARIABLES = ("DOCKER_TLS_VERIFY", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_MACHINE_NAME")
SHELLS = ("bash", "cmd", "emacs", "fish", "powershell", "sh", "tcsh", "zsh")


def detect(shell: str, environment: Mapping[str, str]) -> str:
    """The shell asked for, else the user's. Unknown ones get POSIX syntax; a misspelt flag is refused."""
    if shell:
        if shell not in SHELLS:
            raise InvalidInput(f"unknown shell {shell!r}", hint=f"known are {', '.join(SHELLS)}")
        return shell
    found = PurePath(environment.get("SHELL", "")).name
    return found if found in SHELLS else "bash"


def assignments(shell: str, values: Mapping[str, str]) -> str:
    """Lines that set variables; an empty value unsets."""
    return "".join(
        (_set(shell, name, value) if value else _unset(shell, name)) + "\n" for name, value in values.items()
    )


def usage(shell: str, command: str) -> str:
    """The comment that says how to use the output."""
    intro = "Run this command to configure your shell:"
    match shell:
        case "fish":
            return f"# {intro}\n# {command} | source\n"
        case "powershell":
            return f"# {intro}\n# & {command} | Invoke-Expression\n"
        case "cmd":
            return f"REM {intro}\nREM \tFOR /f \"tokens=*\" %i IN ('{command}') DO @%i\n"
        case "emacs":
            call = f'(with-temp-buffer (shell-command "{command}" (current-buffer)) (eval-buffer))'
            return f";; {intro}\n;; {call}\n"
        case "tcsh":
            return f"# {intro}\n# eval `{command}`\n"
        case _:
            return f"# {intro}\n# eval $({command})\n"


def unset(names: Sequence[str] = VARIABLES) -> dict[str, str]:
    """Values for `assignments` that take everything back."""
    return dict.fromkeys(names, "")


def _set(shell: str, name: str, value: str) -> str:
    match shell:
        case "fish":
            return f'set -gx {name} "{_escape(value, chr(92) + chr(34) + "$")}";'
        case "powershell":
            return f'$Env:{name} = "{_escape(value, "`" + chr(34) + "$", "`")}"'
        case "cmd":
            return f"SET {name}={value}"
        case "emacs":
            return f'(setenv "{name}" "{_escape(value, chr(92) + chr(34))}")'
        case "tcsh":
            return f'setenv {name} "{_escape(value, chr(92) + chr(34) + "$`!")}";'
        case _:
            return f'export {name}="{_escape(value, chr(92) + chr(34) + "$`")}"'


def _unset(shell: str, name: str) -> str:
    match shell:
        case "fish":
            return f"set -e {name};"
        case "powershell":
            return f"Remove-Item Env:\\{name}"
        case "cmd":
            return f"SET {name}="
        case "emacs":
            return f'(setenv "{name}" nil)'
        case "tcsh":
            return f"unsetenv {name};"
        case _:
            return f"unset {name}"


def _escape(value: str, special: str, mark: str = "\\") -> str:
    return re.sub(f"([{re.escape(special)}])", lambda found: mark + found[1], value)
