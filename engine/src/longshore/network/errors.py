"""Errors whose HTTP status differs from what their kind suggests."""

from longshore.errors import Internal


class PortAllocated(Internal):
    """A host port is in use by another container or another program. dockerd answers 500, not 409; so do we."""
