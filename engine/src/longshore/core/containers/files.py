"""Files of a container for clients: archive (docker cp), export, changes."""

from longshore.core.containers.parts import Parts


class Files:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
