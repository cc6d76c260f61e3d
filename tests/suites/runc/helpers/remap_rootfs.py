"""Give the files of a bundle's root to the mapped users of its user namespace: remap-rootfs BUNDLE."""

import json
import os
import stat
import sys
from pathlib import Path


def mapped(mappings: list[dict[str, int]], number: int) -> int | None:
    for mapping in mappings:
        if 0 <= number - mapping["containerID"] < mapping["size"]:
            return mapping["hostID"] + number - mapping["containerID"]
    return None


bundle = Path(sys.argv[1])
spec = json.loads((bundle / "config.json").read_text())
uids, gids = (spec["linux"].get(name, []) for name in ("uidMappings", "gidMappings"))
seen = set[tuple[int, int]]()
root = bundle / spec["root"]["path"]
for path in [root, *root.rglob("*")] if uids or gids else []:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or (found.st_dev, found.st_ino) in seen:
        continue
    seen.add((found.st_dev, found.st_ino))
    uid, gid = mapped(uids, found.st_uid), mapped(gids, found.st_gid)
    if uid is None or gid is None:
        print(f"skipping {path}: {found.st_uid}:{found.st_gid} is not mapped")
        continue
    os.lchown(path, uid, gid)
    path.chmod(stat.S_IMODE(found.st_mode))  # chown(2) has taken the setid bits
