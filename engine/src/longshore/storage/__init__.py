"""Content store, layers, snapshots, archives, volumes."""
