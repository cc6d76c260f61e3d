"""Image names as people write them. Pure."""


def split_reference(text: str) -> tuple[str, str]:
    """(name, tag or digest) for `fromImage` and `tag`; latest when neither is given."""
    name, at, digest = text.partition("@")
    if at:
        return name, digest
    colon = text.rfind(":")
    if colon > text.rfind("/"):
        return text[:colon], text[colon + 1 :]
    return text, "latest"


def registry_of(name: str) -> str:
    """The registry's host that an image name means; docker.io where it names none."""
    first, slash, _ = name.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named else "docker.io"
