"""Does the filesystem of a path take id-mapped mounts? fs-idmap PATH: exit code 0 for yes."""

import sys

from longshore.kernel import mounts, namespaces

try:
    tree = mounts.open_tree(mounts.AT_FDCWD, sys.argv[1])
    user = namespaces.user_namespace(((0, 65536, 65536),), ((0, 65536, 65536),))
    mounts.mount_setattr(tree, attr_set=mounts.MOUNT_ATTR_IDMAP, userns_fd=user)
except OSError as error:
    sys.exit(f"fatal error: {error}")
