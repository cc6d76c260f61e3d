"""The groups that `--cgroup-parent` makes us make above those of containers: they go with the last container.

Which of them are ours is kept in the exec root, which ends with the machine as they do.
"""

import json
import logging
from pathlib import Path

from longshore.runtime import cgroups

log = logging.getLogger("longshore.containers")


class CgroupParents:
    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._made: set[str] = set(json.loads(file.read_text()))
        except (OSError, ValueError):  # none yet, or torn by a crash: then they stay, empty
            self._made = set()

    def expect(self, cgroup: str) -> None:
        """A container is about to start in this group; what is missing above it will be ours."""
        self._keep(self._made | set(cgroups.missing_parents(cgroup)))

    def tidy(self) -> None:
        """Remove those of ours that nobody is in any more."""
        if self._made:
            self._keep(set(cgroups.remove_empty(self._made)))

    def _keep(self, made: set[str]) -> None:
        if made == self._made:
            return
        self._made = made
        try:
            fresh = self._file.with_suffix(".new")
            fresh.write_text(json.dumps(sorted(made)))
            fresh.replace(self._file)
        except OSError as error:  # a full disk: known until this daemon ends
            log.warning("cannot write %s: %s", self._file, error.strerror)
