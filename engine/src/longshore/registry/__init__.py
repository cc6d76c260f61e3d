"""OCI distribution: the client."""
