"""Puts the engine together from the settings and takes it apart again, in the opposite order."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from longshore.build.workshop import Workshop
from longshore.core import containers as core
from longshore.core.database import Database
from longshore.core.doctor import Doctor, read
from longshore.core.engine import Engine
from longshore.core.events import EventBus
from longshore.core.execs import Execs
from longshore.core.images.facade import Images
from longshore.core.images.why import Reasons
from longshore.core.log_budget import LogBudget, budget_of
from longshore.core.logs import check as check_log
from longshore.core.model import LogConfig
from longshore.core.networks import Networks
from longshore.core.registries import Registries
from longshore.core.storage_check import Stores
from longshore.core.storage_repair import Upkeep
from longshore.core.system import System, SystemFacts
from longshore.core.userns import Remap, plan_remap
from longshore.core.volumes import Volumes
from longshore.daemon.puller import LazyRegistry
from longshore.daemon.settings import Settings, parse_cgroup_driver
from longshore.errors import EngineError, InvalidArgument
from longshore.network.manager import NetworkManager
from longshore.network.model import NetworkSettings
from longshore.oci.digest import Digest
from longshore.runtime import apparmor
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.cgroups import remove_parent, systemd_runs
from longshore.runtime.client import Zygote
from longshore.storage.content import ContentStore
from longshore.storage.layers import LayerStore
from longshore.storage.snapshots import Snapshots
from longshore.storage.volumes import VolumeStore

log = logging.getLogger("longshore.daemon")


@dataclass(slots=True)
class Parts:
    """What the daemon itself holds of a running engine."""

    engine: Engine
    registry: LazyRegistry

    def reload(self, settings: Settings) -> None:
        """Take over what may change at run time."""
        self.registry.settings = settings
        system = self.engine.system
        system.facts = facts_of(settings)
        self.engine.events.publish("daemon", "reload", system.identity(), {"name": socket.gethostname()})


def facts_of(settings: Settings) -> SystemFacts:
    return SystemFacts(
        data_root=Path(settings.data_root),
        insecure_registries=settings.insecure_registries,
        registry_mirrors=settings.registry_mirrors,
        labels=settings.labels,
        experimental=settings.experimental,
        debug=settings.level == "debug",
    )


def uses_systemd(settings: Settings) -> bool:
    """The cgroup driver: what the settings say, else systemd's own where it runs and cgroups are v2.

    Raises InvalidArgument when it is wanted on a machine without systemd.
    """
    driver = parse_cgroup_driver(settings.exec_opts)
    if driver == "systemd" and not systemd_runs():
        raise InvalidArgument(
            "native.cgroupdriver option systemd: this machine was not booted with systemd",
            hint="native.cgroupdriver=cgroupfs",
        )
    return driver == "systemd" or (not driver and systemd_runs() and layout().pure_v2)


def log_config(settings: Settings) -> LogConfig:
    """What containers log to that say nothing else. Raises InvalidArgument."""
    config = LogConfig(type=settings.log_driver, config=dict(settings.log_opts))
    try:
        check_log(config)
    except EngineError as cause:
        raise InvalidArgument("failed to set log opts", detail=str(cause)) from cause
    return config


def load_apparmor() -> str:
    """The profile for containers, "" where there is none; the doctor says why. Blocks while it is compiled."""
    if not apparmor.enabled():
        return ""
    try:
        apparmor.load_default()
    except EngineError as error:
        log.warning("containers run without an AppArmor profile: %s", error)
        return ""
    return apparmor.PROFILE


def userns_of(settings: Settings) -> Remap:
    """Raises InvalidArgument for a user without subordinate ids."""
    return plan_remap(settings.userns_remap, settings.userns_range, read("/etc/subuid"), read("/etc/subgid"))


def upkeep_of(
    parts: core.Parts, containers: core.Containers, layers: LayerStore, database: Database
) -> Upkeep:
    """What looks after the stores."""
    images = parts.images
    stores = Stores(database, images.shelf, images.shelf.catalog, images.content, layers, parts.snapshots)

    def users(id: Digest) -> list[tuple[str, str]]:
        found = [containers.get(container) for container in images.shelf.in_use(id)]
        return [(container.id, f"{container.name}, {container.state.status}") for container in found]

    reasons = Reasons(images, images.shelf.catalog, users)
    return Upkeep(parts.paths.data, images, stores, lambda: [each.id for each in parts.store], reasons)


@asynccontextmanager
async def compose(settings: Settings, starting: Awaitable[Zygote]) -> AsyncGenerator[Parts]:
    """The engine, restored: running containers are found again before anybody can ask.

    `starting`: the zygote, on its way.
    Raises EngineError. On leaving, everything is let go and the containers run on.
    """
    data, run = Path(settings.data_root), Path(settings.exec_root)
    systemd_cgroup = uses_systemd(settings)
    apparmor_profile = await asyncio.to_thread(load_apparmor)
    async with AsyncExitStack() as stack:
        database = Database(data / "longshore.db")
        stack.callback(database.close)
        events = EventBus()
        content = ContentStore(data / "content")
        layers = LayerStore(data / "layers", content)
        registry = LazyRegistry(settings)
        images = Images(database, content, layers, events, registry)
        stack.push_async_callback(images.shelf.close)
        volumes = Volumes(database, VolumeStore(data / "volumes"), events)
        manager = NetworkManager(NetworkSettings(bridge=settings.bridge, bip=settings.bip, mtu=settings.mtu))
        networks = Networks(database, manager, events)
        stack.push_async_callback(manager.close)
        stack.callback(remove_parent)
        await networks.setup()
        zygote = await starting
        stack.push_async_callback(zygote.close)
        paths = core.Paths(data, run)
        parts = core.Parts(
            store=core.ContainerStore(database, paths),
            images=images,
            volumes=volumes,
            networks=networks,
            network=manager,
            snapshots=Snapshots(data / "snapshots"),
            layers_dir=layers.directory,
            zygote=zygote,
            events=events,
            paths=paths,
            defaults=core.Defaults(
                systemd_cgroup=systemd_cgroup,
                dns=settings.dns,
                dns_search=settings.dns_search,
                log=log_config(settings),
                apparmor=apparmor_profile,
                userns=userns_of(settings),
                cdi_spec_dirs=settings.cdi_spec_dirs,
            ),
            cgroup_parents=core.CgroupParents(run / "cgroup-parents.json"),
        )
        containers = core.Containers(parts)
        stack.push_async_callback(containers.close)
        budget = LogBudget(budget_of(settings.log_budget, settings.data_root), containers.log_files)
        stack.push_async_callback(budget.close)
        execs = Execs(parts)
        stack.push_async_callback(execs.close)
        registries = Registries(data / "registries")
        stack.push_async_callback(registries.close)
        engine = Engine(
            database=database,
            events=events,
            images=images,
            networks=networks,
            volumes=volumes,
            containers=containers,
            execs=execs,
            system=System(parts, facts_of(settings)),
            doctor=Doctor(data, networks.checks),
            upkeep=upkeep_of(parts, containers, layers, database),
            registries=registries,
        )
        workshop = engine.kept[Workshop] = Workshop(engine, data / "build", run / "build")
        await images.restore()  # layers that a power cut took are unpacked again before anything starts
        await containers.restore()
        await registries.restore()
        await workshop.restore()
        budget.start()
        yield Parts(engine, registry)
