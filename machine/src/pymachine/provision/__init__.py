"""Turning a host that lets us in by SSH into an engine host. The steps on the host are the bundle's own installer's."""
