"""A registry as a process of its own: what `longshore registry serve` becomes.

    python -m longshore.daemon.registry [--config FILE] [KEY=VALUE ...]

Keys are those of the configuration, joined by dots: `http.addr=127.0.0.1:5000`.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from longshore.daemon import claims, logs
from longshore.errors import EngineError, InvalidArgument
from longshore.registry.server.service import RegistryServer
from longshore.registry.server.settings import Settings, read_settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 0 after a signal, 1 when it cannot start."""
    parser = argparse.ArgumentParser(prog="longshore registry serve", description=__doc__)
    parser.add_argument("--config", default="", metavar="FILE")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    try:
        settings = read_settings(options.config, options.settings)
        _set_up_log(settings.log.level)
        asyncio.run(serve(settings))
    except EngineError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _set_up_log(level: str) -> None:
    """distribution's level names are ours but for two."""
    level = {"warning": "warn", "trace": "debug", "panic": "fatal"}.get(level, level)
    if level not in logs.LEVELS:
        raise InvalidArgument(f"unknown log level {level!r}", hint=f"one of {', '.join(logs.LEVELS)}")
    logs.setup(level)


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises EngineError when it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with RegistryServer(settings) as server:
        claims.notify(f"READY=1\nSTATUS=listening on {', '.join(server.addresses)}")
        await stop.wait()
        claims.notify("STOPPING=1")
    logging.getLogger("longshore.registry.server").info("the registry has ended")


if __name__ == "__main__":
    main()
