"""`longshore-oci`: the runtime as a command with the interface of runc, for bundles on disk.

`create` leaves nothing behind but the container's own first process, which waits at a socket; `start` connects there,
gives permission and hears what became of it. One file per group of commands; each imports only what it needs, because
callers start this program many times for each container.
"""
