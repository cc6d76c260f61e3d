"""The two ways to say "deleted": in layer tars by names, in overlay directories by devices and attributes.

OCI image spec, layer.md ("Whiteouts"); Linux Documentation/filesystems/overlayfs.rst ("whiteouts and opaque
directories").
"""

import os
import stat

PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
RESERVED = b".wh..wh."  # AUFS kept books under such names; old images still carry them

OPAQUE_XATTR = "trusted.overlay.opaque"
OVERLAY_XATTRS = b"trusted.overlay."


def is_whiteout(status: os.stat_result) -> bool:
    """A character device 0:0 marks a deleted name."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
