"""--chown and USER: names looked up in the image's own tables."""

from longshore.build.trees import Tree, resolve
from longshore.errors import EngineError

MAX_TABLE = 1 << 20  # bytes of /etc/passwd and /etc/group


def owner_in(text: str, image: Tree, *, strict: bool = True) -> tuple[int, int]:
    """`user[:group]` as ids. Not `strict`: root where the image does not know the name. Raises EngineError."""

    def read(path: str) -> str:
        entry = image.entry(resolve(image, path))
        if entry is None or not entry.is_file:
            return ""
        with image.open(entry) as stream:
            return stream.read(MAX_TABLE).decode(errors="replace")

    try:
        return parse_owner(text, OwnerLookup(read("/etc/passwd"), read("/etc/group")))
    except EngineError:
        if strict:
            raise
        return 0, 0


def parse_owner(text: str, find: "OwnerLookup") -> tuple[int, int]:
    """`user[:group]` of --chown, names looked up in the image. A user alone gives its own group."""
    user, _, group = text.partition(":")
    uid, gid = (int(user), int(user)) if user.isdigit() else find.user(user)
    if group:
        gid = int(group) if group.isdigit() else find.group(group)
    return uid, gid


class OwnerLookup:
    """Names in the image's /etc/passwd and /etc/group, given as text."""

    def __init__(self, passwd: str, group: str) -> None:
        self._passwd, self._group = passwd, group

    def user(self, name: str) -> tuple[int, int]:
        fields = self._line(self._passwd, name, "user")
        return int(fields[2]), int(fields[3])

    def group(self, name: str) -> int:
        return int(self._line(self._group, name, "group")[2])

    @staticmethod
    def _line(table: str, name: str, kind: str) -> list[str]:
        for line in table.splitlines():
            fields = line.split(":")
            if (
                fields[0] == name
                and len(fields) >= 4
                and fields[2].isdigit()
                and (kind == "group" or fields[3].isdigit())
            ):
                return fields
        raise EngineError(f"unable to find {kind} {name} in the image", hint="use a number")
