"""The cgroups of the containers of one test run, made by the driver that LONGSHORE_TEST_CGROUP_DRIVER names."""

import os
from dataclasses import dataclass
from pathlib import Path

from longshore.runtime import cgroups
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.cgroup_names import PARENT, SLICE

DRIVER = os.environ.get("LONGSHORE_TEST_CGROUP_DRIVER", "cgroupfs")
SYSTEMD = DRIVER == "systemd"


@dataclass(frozen=True)
class Groups:
    """`name` tells those of this run from all others; letters and digits only."""

    name: str

    def spec_path(self, container: str) -> str:
        """The specification's cgroupsPath."""
        return f"{SLICE}:{self.name}:{container}" if SYSTEMD else f"{PARENT}/{self.name}/{container}"

    def path(self, container: str) -> str:
        """Below each hierarchy's mount."""
        return f"/{SLICE}/{self.name}-{container}.scope" if SYSTEMD else f"{PARENT}/{self.name}/{container}"

    def folders(self) -> list[str]:
        """What exists of them, in all hierarchies."""
        below, pattern = (f"/{SLICE}", f"{self.name}-*.scope") if SYSTEMD else (f"{PARENT}/{self.name}", "*")
        found = [path for each in layout().used() for path in Path(each.path(below)).glob(pattern)]
        return sorted(str(path) for path in found if path.is_dir())

    def containers(self) -> list[str]:
        """Names of the containers that still have a group somewhere."""
        names = {Path(path).name for path in self.folders()}
        return sorted(name.removeprefix(f"{self.name}-").removesuffix(".scope") for name in names)

    def clean(self) -> None:
        """End what a failed test left, and remove the folder that the containers share."""
        for container in self.containers():
            cgroups.kill_all(self.path(container))
            cgroups.remove(self.path(container))
        if not SYSTEMD:
            cgroups.remove(f"{PARENT}/{self.name}")
