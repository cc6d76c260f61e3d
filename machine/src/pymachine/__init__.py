"""pymachine: turns a container, a VM or any SSH host into a Longshore engine host."""

__version__ = "0.1.0"
