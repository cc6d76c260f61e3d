"""The Docker Engine API over core: request value to reply value."""
