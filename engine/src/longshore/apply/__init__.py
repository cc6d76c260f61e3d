"""Desired state, difference, plan, result."""
