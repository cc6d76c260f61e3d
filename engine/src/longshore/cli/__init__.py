"""The command `longshore`: one file per command group, a client like any other."""
