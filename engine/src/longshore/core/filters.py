"""Docker's list filters. Values of one name are alternatives, different names must all match. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from longshore.errors import InvalidArgument


def check_filters(
    given: Mapping[str, Sequence[str]] | None, known: Iterable[str]
) -> dict[str, Sequence[str]]:
    """Raises InvalidArgument for a name that is not known."""
    names = frozenset(known)
    for name in given or {}:
        if name not in names:
            raise InvalidArgument(f"invalid filter '{name}'")
    return {name: values for name, values in (given or {}).items() if values}


def label_filter(wanted: Iterable[str], labels: Mapping[str, str]) -> bool:
    """Whether all of `key` or `key=value` hold; labels are the exception where all values must match."""
    for entry in wanted:
        key, found, value = entry.partition("=")
        if key not in labels or (found and labels[key] != value):
            return False
    return True


def one_of(values: Sequence[str], matches: Callable[[str], bool]) -> bool:
    """Whether there is no opinion or one of the values matches."""
    return not values or any(matches(value) for value in values)


def boolean(values: Sequence[str], name: str) -> bool | None:
    """The value of a filter that is true or false; None when it is not given. Raises InvalidArgument."""
    if not values:
        return None
    words = {value.lower() for value in values}
    if words <= {"1", "true", "t"}:
        return True
    if words <= {"0", "false", "f"}:
        return False
    raise InvalidArgument(f"invalid filter '{name}={values[0]}'")
