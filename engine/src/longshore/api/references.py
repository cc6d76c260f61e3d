"""Image names of the API, which come in pieces. Pure."""


def join_tag(name: str, tag: str) -> str:
    """`fromImage` and `tag` of the API as one reference; a digest may stand in place of the tag."""
    if not tag:
        return name
    return f"{name}@{tag}" if ":" in tag else f"{name}:{tag}"
