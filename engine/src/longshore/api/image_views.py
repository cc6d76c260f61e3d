"""Images as the API shows them: in the list, in inspect, and platform by platform. Pure."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from longshore.core.containers.inspect import DRIVER
from longshore.core.images.model import Image
from longshore.oci.image_config import ContainerDefaults
from longshore.oci.variants import Variant

_NEVER = "0001-01-01T00:00:00Z"
# Docker shows every field, also those that an image config leaves out.
_CONFIG: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


def unix_time(text: str) -> int:
    """Seconds of an RFC 3339 time; 0 for none. Go writes nine digits of fraction, Python reads six."""
    if not text:
        return 0
    try:
        return int(datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp())
    except ValueError:
        return 0


def config_view(config: ContainerDefaults) -> dict[str, Any]:
    return _CONFIG | msgspec.to_builtins(config)


def summary_view(
    image: Image, version: tuple[int, int], containers: int = -1, shared: int = -1
) -> dict[str, Any]:
    """One entry of the list. Counts and sizes that nobody asked for are -1."""
    view: dict[str, Any] = {
        "Containers": containers,
        "Created": unix_time(image.created),
        "Id": str(image.id),
        "Labels": image.config.defaults.labels,
        "ParentId": str(image.parent) if image.parent else "",
        "RepoDigests": list(image.digests),
        "RepoTags": list(image.tags),
        "SharedSize": shared,
        "Size": image.size,
    }
    if version < (1, 44):
        view["VirtualSize"] = image.size
    if version < (1, 43) and not image.tags:
        view["RepoTags"] = ["<none>:<none>"]
        view["RepoDigests"] = view["RepoDigests"] or ["<none>@<none>"]
    return view


def inspect_view(image: Image, version: tuple[int, int]) -> dict[str, Any]:
    config = image.config
    last = (config.history or [None])[-1]
    view: dict[str, Any] = {
        "Id": str(image.id),
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.digests),
        "Parent": str(image.parent) if image.parent else "",
        "Comment": last.comment if last else "",
        "Created": image.created or _NEVER,
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": config_view(config.defaults),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size,
        "GraphDriver": {"Data": None, "Name": DRIVER},
        "RootFS": {"Type": "layers", "Layers": [str(layer.diff_id) for layer in image.layers]},
        "Metadata": {"LastTagTime": image.tagged or _NEVER},
    }
    if config.variant:
        view["Variant"] = config.variant
    if config.os_version:
        view["OsVersion"] = config.os_version
    if version < (1, 44):
        view["VirtualSize"] = image.size
    if version < (1, 45):
        view["Container"] = ""
        view["ContainerConfig"] = config_view(ContainerDefaults())
    return view


def manifest_view(variant: Variant, image: Image, users: Sequence[str]) -> dict[str, Any]:
    """One entry of `Manifests`. `users`: ids of the containers of `image`, which is unpacked."""
    content = variant.descriptor.size + sum(part.size for part in variant.parts)
    content -= sum(part.size for part in variant.missing)
    mine = variant.image_id == image.id
    unpacked = image.size if mine else 0
    descriptor = msgspec.structs.replace(variant.descriptor, platform=None)
    view: dict[str, Any] = {
        "ID": variant.descriptor.digest,
        "Descriptor": msgspec.to_builtins(descriptor) | {"platform": msgspec.to_builtins(variant.platform)},
        "Available": variant.available,
        "Size": {"Content": content, "Total": content + unpacked},
        "Kind": variant.kind,
    }
    if variant.kind == "image":
        view["ImageData"] = {
            "Platform": msgspec.to_builtins(variant.platform),
            "Containers": list(users) if mine else [],
            "Size": {"Unpacked": unpacked},
        }
    if variant.kind == "attestation":
        view["AttestationData"] = {"For": variant.attests}
    return view
