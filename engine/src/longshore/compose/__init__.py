"""Compose files to desired state. Pure."""
