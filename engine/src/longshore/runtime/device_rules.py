"""What the rules of the device cgroup mean together, the same for v1 and v2. Pure.

The model is the kernel's of v1 (security/device_cgroup.c): a default, and exceptions from it. runc emulates the same
for v2, so a policy means the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from longshore.errors import InvalidArgument
from longshore.oci.runtime_spec import DeviceRule

# What every container may use whatever its policy: nodes that are made for it, terminals, and making nodes
# (a node alone opens nothing). The same as runc adds.
DEFAULT_DEVICE_RULES = (
    DeviceRule(True, "c", None, None, "m"),
    DeviceRule(True, "b", None, None, "m"),
    *(
        DeviceRule(True, "c", major, minor, "rwm")
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))
    ),
)

_Node = tuple[str, int | None, int | None]


@dataclass(frozen=True, slots=True)
class Policy:
    """`exceptions` all say the opposite of `allow`; of types b and c, none twice for the same numbers."""

    allow: bool
    exceptions: tuple[DeviceRule, ...]

    @property
    def everything(self) -> bool:
        return self.allow and not self.exceptions


def policy_of(rules: tuple[DeviceRule, ...]) -> Policy:
    """The policy of a container: its rules in order, beginning from "nothing", then the defaults.

    Raises InvalidArgument for a rule that takes something out of a wider one: v1 would ignore it.
    """
    allow, exceptions = False, dict[_Node, set[str]]()
    for given in (*rules, *DEFAULT_DEVICE_RULES):
        if is_everything(given):
            allow, exceptions = given.allow, {}
            continue
        for rule in _of_one_type(given):
            node, access = (rule.type, rule.major, rule.minor), set(rule.access)
            if rule.allow != allow:
                exceptions[node] = exceptions.get(node, set()) | access
                continue
            _refuse_holes(exceptions, rule)
            if left := exceptions.pop(node, set()) - access:
                exceptions[node] = left
    return Policy(
        allow,
        tuple(
            DeviceRule(not allow, kind, major, minor, "".join(letter for letter in "rwm" if letter in access))
            for (kind, major, minor), access in exceptions.items()
        ),
    )


def is_everything(rule: DeviceRule) -> bool:
    return rule.type == "a" and rule.major is None and rule.minor is None and set(rule.access) >= set("rwm")


def _of_one_type(rule: DeviceRule) -> Iterator[DeviceRule]:
    """The kernel reads "a 1:3 r" as everything; we take it for what it says."""
    for kind in "bc" if rule.type == "a" else rule.type:
        yield DeviceRule(rule.allow, kind, rule.major, rule.minor, rule.access)


def _refuse_holes(exceptions: dict[_Node, set[str]], rule: DeviceRule) -> None:
    node = (rule.type, rule.major, rule.minor)
    for wider in {(rule.type, None, rule.minor), (rule.type, rule.major, None), (rule.type, None, None)}:
        if wider != node and exceptions.get(wider, set()) & set(rule.access):
            words = [["deny", "allow"][each] for each in (rule.allow, not rule.allow)]
            raise InvalidArgument(
                f"device rule {describe(rule)}: {words[0]} is not possible where a wider rule says {words[1]}",
                detail=f"the wider rule is {describe(DeviceRule(not rule.allow, *wider))}",
                hint="write the rules without the overlap",
            )


def describe(rule: DeviceRule) -> str:
    """As the file devices.list of v1 shows it."""
    numbers = ":".join("*" if number is None else str(number) for number in (rule.major, rule.minor))
    return f"{rule.type} {numbers} {rule.access}"
