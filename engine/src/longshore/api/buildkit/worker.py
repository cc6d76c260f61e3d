"""What this daemon says of itself as a BuildKit worker: platforms, labels, capabilities."""

from longshore import __version__
from longshore.api.buildkit.messages import APICap, BuildkitVersion, GCPolicy, Platform, WorkerRecord
from longshore.core.engine import Engine
from longshore.errors import NotFound
from longshore.oci.descriptor import host_platform

# buildx compares versions before it offers some of its flags; this is the protocol that is served here.
VERSION = "v0.13.1"

FRONTEND_CAPS = (
    "solve.base", "solve.inlinereturn", "resolveimage", "resolveimage.resolvemode", "readfile", "return", "returnmap",
    "readdir", "statfile", "importcaches", "proto.refarray", "reference.output", "frontend.inputs",
    "gateway.solve.metadata", "frontend.caps", "gateway.solve.evaluate", "gateway.evaluate", "gateway.warnings",
)  # fmt: skip

# Sources and operations of a graph that buildx looks for before it sends a flag. No graph is executed here: the
# frontend does not make one.
LLB_CAPS = (
    "source.image", "source.image.resolvemode", "source.local", "source.local.unique", "source.local.sessionid",
    "source.local.includepatterns", "source.local.followpaths", "source.local.excludepatterns",
    "source.local.sharedkeyhint", "source.local.differ", "source.git", "source.http", "file.base", "constraints",
    "platform", "meta.ignorecache", "meta.description", "exporter.multiple", "exporter.sourcedateepoch",
)  # fmt: skip


def version() -> BuildkitVersion:
    return BuildkitVersion("github.com/moby/buildkit", f"{VERSION}-longshore", __version__)


def record(engine: Engine) -> WorkerRecord:
    """The one worker."""
    labels = {
        "org.mobyproject.buildkit.worker.hostname": str(engine.system.info().get("Name", "")),
        "org.mobyproject.buildkit.worker.network": "host",
        # buildx takes this one as the sign that archives can be exported, not only images stored.
        "org.mobyproject.buildkit.worker.snapshotter": "overlayfs",
    }
    gateway = _gateway_address(engine)
    if gateway:
        labels["org.mobyproject.buildkit.worker.moby.host-gateway-ip"] = gateway
    here = host_platform()
    return WorkerRecord(
        str(engine.system.info().get("ID", "longshore")),
        labels,
        [Platform(here.architecture, here.os, here.variant)],
        [GCPolicy(all=True)],
        version(),
    )


def caps(ids: tuple[str, ...]) -> list[APICap]:
    return [APICap(id, enabled=True) for id in ids]


def _gateway_address(engine: Engine) -> str:
    """The host's address on the default bridge, "" without one."""
    try:
        bridge = engine.networks.get("bridge").bridge
    except NotFound:
        return ""
    return bridge.gateway if bridge else ""
