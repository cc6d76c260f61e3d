"""What systemd is told about a container's group: the properties of its scope. Pure.

systemd writes the files of its units itself, again at every `systemctl daemon-reload`. What it does not know it would
reset, so each planned write that has a property goes to both, systemd.resource-control(5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from longshore.errors import InvalidArgument
from longshore.oci.runtime_spec import DeviceRule
from longshore.runtime.cgroup_plan import Write
from longshore.runtime.device_rules import Policy

Value = bool | int | float | str | bytes | list["Value"] | tuple["Value", ...]
Property = tuple[str, tuple[str, Value]]  # name, (D-Bus signature, value)

_INFINITY = (1 << 64) - 1
_SECOND = 1_000_000
_ANNOTATION = "org.systemd.property."


def scope_properties(
    description: str, slice_: str, pid: int, writes: Iterable[Write], annotations: Mapping[str, str]
) -> list[Property]:
    """For StartTransientUnit of a scope that takes the process in. Raises InvalidArgument."""
    limits = dict(limit_properties(writes))
    # Without it systemd's own DefaultTasksMax (15 % of what the machine can have) would be a limit nobody asked for.
    limits.setdefault("TasksMax", ("t", _INFINITY))
    basic: dict[str, tuple[str, Value]] = {
        "Description": ("s", description),
        "Slice": ("s", slice_),
        "Delegate": ("b", True),
        "PIDs": ("au", [pid]),
        # Without default dependencies the scope has no conflict with shutdown.target: the engine stops containers.
        "DefaultDependencies": ("b", False),
        # Also a scope that failed (its process was killed for memory) goes by itself when it is empty.
        "CollectMode": ("s", "inactive-or-failed"),
        **{f"{name}Accounting": ("b", True) for name in ("CPU", "Memory", "IO", "Tasks")},
    }
    return list({**basic, **limits, **dict(annotation_properties(annotations))}.items())


def limit_properties(writes: Iterable[Write]) -> list[Property]:
    """The properties that say the same as these writes. What systemd has no word for is left out: it is only written."""
    found: dict[str, tuple[str, Value]] = {}
    values = {write.file: write.value for write in _with_alternatives(writes)}
    for file, value in values.items():
        if file in _WORDS:
            found.update(_WORDS[file](value))
    _quota_v1(values, found)
    if values.get("cpu.idle") == "1":
        found["CPUWeight"] = ("t", 0)  # systemd 252 and newer write cpu.idle for it
    return list(found.items())


def _with_alternatives(writes: Iterable[Write]) -> Iterable[Write]:
    for write in writes:
        yield write
        if write.otherwise is not None:
            yield write.otherwise


def _number(value: str) -> int:
    if value in ("max", "-1"):
        return _INFINITY
    if not value.isdigit():
        raise InvalidArgument(f'"{value}" is not a number', hint='write a number or "max"')
    return int(value)


def _plain(name: str) -> Callable[[str], dict[str, tuple[str, Value]]]:
    return lambda value: {name: ("t", _number(value))}


def _set_of(name: str) -> Callable[[str], dict[str, tuple[str, Value]]]:
    return lambda value: {name: ("ay", bits_of(value))}


def _default_weight(name: str) -> Callable[[str], dict[str, tuple[str, Value]]]:
    """Lines for one device are left out: systemd does not touch those that it was not told."""

    def make(value: str) -> dict[str, tuple[str, Value]]:
        weight = value.removeprefix("default ")
        return {name: ("t", int(weight))} if weight.isdigit() else {}

    return make


def _quota(value: str) -> dict[str, tuple[str, Value]]:
    quota, _space, period = value.partition(" ")
    return _cpu_quota(_INFINITY if quota == "max" else _number(quota), _number(period or "100000"))


def _cpu_quota(quota: int, period: int) -> dict[str, tuple[str, Value]]:
    """systemd thinks in percent of a processor: rounded up, so that what is in the group's files still fits."""
    share = _INFINITY if quota == _INFINITY else -(-(quota * _SECOND // period) // 10000) * 10000
    return {"CPUQuotaPeriodUSec": ("t", period), "CPUQuotaPerSecUSec": ("t", share)}


def _quota_v1(values: Mapping[str, str], found: dict[str, tuple[str, Value]]) -> None:
    quota, period = values.get("cpu.cfs_quota_us"), values.get("cpu.cfs_period_us")
    if quota or period:
        found.update(_cpu_quota(_number(quota or "-1"), _number(period or "100000")))


_WORDS: dict[str, Callable[[str], dict[str, tuple[str, Value]]]] = {
    # v2, also as unified resources
    "memory.max": _plain("MemoryMax"),
    "memory.high": _plain("MemoryHigh"),
    "memory.low": _plain("MemoryLow"),
    "memory.min": _plain("MemoryMin"),
    "memory.swap.max": _plain("MemorySwapMax"),
    "cpu.weight": _plain("CPUWeight"),
    "cpu.max": _quota,
    "cpuset.cpus": _set_of("AllowedCPUs"),
    "cpuset.mems": _set_of("AllowedMemoryNodes"),
    "io.weight": _default_weight("IOWeight"),
    # v1
    "memory.limit_in_bytes": _plain("MemoryLimit"),
    "cpu.shares": _plain("CPUShares"),
    "blkio.weight": _plain("BlockIOWeight"),
    # both
    "pids.max": _plain("TasksMax"),
}


def bits_of(text: str) -> bytes:
    """A list like 0-2,7 as systemd wants it: bit n of byte n/8 is processor n. Raises InvalidArgument."""
    bits = 0
    try:
        for part in filter(None, text.strip().split(",")):
            first, dash, last = part.strip().partition("-")
            low, high = int(first), int(last if dash else first)
            if not 0 <= low <= high < 1 << 16:
                raise ValueError(part)
            bits |= ((1 << (high - low + 1)) - 1) << low
    except ValueError:
        raise InvalidArgument(f'"{text}" is not a list of numbers', hint="write it like 0-2,7") from None
    if not bits:
        raise InvalidArgument("the list of processors or memory nodes is empty")
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def device_properties(policy: Policy) -> list[Property]:
    """For v1, where systemd would write "everything" into devices.allow at a reload. v2 has programs side by side."""
    if policy.allow:
        return []
    entries = [(_node(rule), rule.access) for rule in policy.exceptions]
    return [("DevicePolicy", ("s", "strict")), ("DeviceAllow", ("a(ss)", list(entries)))]


def _node(rule: DeviceRule) -> str:
    kind = {"c": "char", "b": "block"}[rule.type]
    if rule.major is None:
        return f"{kind}-*"
    if rule.minor is None:
        return f"{kind}-{rule.major}"  # a number is as good as a name of /proc/devices, systemd 235
    return f"/dev/{kind}/{rule.major}:{rule.minor}"


# Annotations, as runc reads them


def annotation_properties(annotations: Mapping[str, str]) -> list[Property]:
    """`org.systemd.property.<Name>` = a value in GVariant's text form, like `uint64 5`. Raises InvalidArgument."""
    found: list[Property] = []
    for key, text in annotations.items():
        if not key.startswith(_ANNOTATION):
            continue
        name = key.removeprefix(_ANNOTATION)
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            raise InvalidArgument(f"annotation {key}: invalid name of a property", hint="letters only")
        try:
            signature, value = parse_variant(text)
            if name.endswith("Sec") and name[-4].islower():
                # Documented in seconds, but on the bus it is microseconds (TimeoutStopSec, TimeoutStopUSec).
                name, signature, value = f"{name.removesuffix('Sec')}USec", "t", _microseconds(value)
        except ValueError as cause:
            raise InvalidArgument(f"annotation {key}={text}: {cause}") from None
        found.append((name, (signature, value)))
    return found


def _microseconds(value: Value) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("not a number")
    return int(value * _SECOND)


_TYPES = {
    "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t",
    "handle": "h", "double": "d", "string": "s", "objectpath": "o", "signature": "g", "boolean": "b",
}  # fmt: skip
_TOKEN = re.compile(
    r"""\s*(?:@(?P<type>\S+)|(?P<word>[A-Za-z_]\w*)|(?P<number>[-+]?[\d.][\w.+-]*)
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<mark>[\[\]()<>,]))""",
    re.VERBOSE,
)


def parse_variant(text: str) -> tuple[str, Value]:
    """A value in the text form of GVariant, as far as properties need it: numbers, texts, booleans, and arrays.

    Returns the D-Bus signature and the value. Raises ValueError.
    """
    tokens: list[tuple[str, str]] = []
    end = 0
    while end < len(text.rstrip()):
        found = _TOKEN.match(text, end)
        if found is None:
            raise ValueError(f"unexpected {text[end:].strip()!r}")
        tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
        end = found.end()
    signature, value = _read(tokens)
    if tokens:
        raise ValueError(f"unexpected {tokens[0][1]!r} after the value")
    return signature, value


def _read(tokens: list[tuple[str, str]], wanted: str = "") -> tuple[str, Value]:
    kind, word = tokens.pop(0) if tokens else ("", "")
    if kind == "type":
        return _read(tokens, word)
    if kind == "word" and word in _TYPES:
        return _read(tokens, _TYPES[word])
    if kind == "word" and word in ("true", "false") and wanted in ("", "b"):
        return "b", word == "true"
    if kind == "text" and wanted in ("", "s", "o", "g"):
        return wanted or "s", re.sub(r"\\(.)", r"\1", word[1:-1])
    if kind == "number" and (wanted == "d" or (not wanted and re.search(r"[.eE]", word) and "x" not in word)):
        return "d", float(word)
    if kind == "number" and wanted in ("", *"ynqiuxth"):
        return wanted or "i", int(word, 0)
    if (kind, word) == ("mark", "[") and (not wanted or wanted.startswith("a")):
        return _read_array(tokens, wanted[1:])
    raise ValueError(f"unexpected {word!r}" if word else "a value is missing")


def _read_array(tokens: list[tuple[str, str]], element: str) -> tuple[str, Value]:
    values: list[Value] = []
    while tokens and tokens[0] != ("mark", "]"):
        if values and tokens.pop(0) != ("mark", ","):
            raise ValueError("elements are separated by a comma")
        signature, value = _read(tokens, element)
        element = element or signature
        values.append(value)
    if not tokens or not element:
        raise ValueError("the array does not end" if not tokens else "the type of an empty array is unknown")
    tokens.pop(0)
    return f"a{element}", bytes(v for v in values if isinstance(v, int)) if element == "y" else values
