"""Composition root: settings, wiring, process tree, self-installation."""
