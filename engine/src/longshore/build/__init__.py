"""Dockerfile parser, build steps, executor, cache."""
