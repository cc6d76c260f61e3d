"""Longshore: a container engine for plain Linux hosts that speaks the Docker Engine API."""

__version__ = "0.1.0"
