"""Which field of a request a refusal is about."""

from collections.abc import Generator
from contextlib import contextmanager

from longshore.errors import InvalidArgument, Unsupported


@contextmanager
def about(field: str) -> Generator[None]:
    """A refusal from inside names the field ("HostConfig.CapAdd") unless its words do already."""
    try:
        yield
    except (InvalidArgument, Unsupported) as error:
        if field.rpartition(".")[2].lower() not in str(error).lower().replace(" ", ""):
            if error.detail:
                error.detail += f" in {field}"
            else:
                error.what += f" in {field}"
        raise
