"""Why a container did not start, as an exit code."""


def start_exit_code(message: str) -> int:
    """docker's reading of the daemon's words: 127 there is no such program, 126 it cannot be executed, 125 the rest."""
    if "executable file not found" in message or "no such file or directory" in message:
        return 127
    if "permission denied" in message or "is a directory" in message:
        return 126
    return 125
