"""The objects users know and their use cases; the state database."""
