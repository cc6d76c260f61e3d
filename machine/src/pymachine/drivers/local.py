"""A machine that is a container on our own engine: a real sshd, its own engine inside, no VM."""

import contextlib
import io
import os
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, cast

import docker
import docker.errors
import requests

from pymachine.drivers import local_image
from pymachine.drivers.base import Driver, Flag, State
from pymachine.errors import Conflict, DriverError, InvalidInput
from pymachine.files import write_atomic
from pymachine.journal import Step
from pymachine.keys import make_key_pair, parse_host_keys, pinned, write_known_hosts
from pymachine.record import number, text
from pymachine.ssh import wait_for_login
from pymachine.store import Store

ENGINE = "unix:///run/longshore/longshore.sock"
DATA_ROOT = "/var/lib/longshore"
NAME_LABEL = "pymachine.name"
STORE_LABEL = "pymachine.store"
Api = Any  # docker-py's client: what it returns is the API's JSON, without types
_BUILD_SECONDS = 1800.0
_LOGIN_SECONDS = 60.0
_STOP_SECONDS = 10
_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_STATES = {
    "running": State.RUNNING,
    "paused": State.PAUSED,
    "restarting": State.STARTING,
    "created": State.STOPPED,
    "exited": State.STOPPED,
    "removing": State.STOPPING,
    "dead": State.ERROR,
}


class LocalDriver(Driver):
    """The embedded default. Needs only a running engine on this host."""

    name = "local"
    flags = (
        Flag(
            "local-engine", "the engine that carries the machine", ENGINE, env="LONGSHORE_HOST", metavar="URL"
        ),
        Flag(
            "local-image",
            f"image of the machine; the default, {local_image.IMAGE}, is built when missing",
            env="LOCAL_IMAGE",
            metavar="IMAGE",
        ),
        Flag("local-memory", "memory limit, like 512m or 2g (a bare number is MB)", metavar="SIZE"),
        Flag("local-cpus", "number of CPUs, like 1.5", metavar="NUMBER"),
    )

    @classmethod
    def configure(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "IPAddress": "",
            "SSHUser": "root",
            "SSHPort": 22,
            "SSHKeyPath": "",
            "Engine": str(options.get("local-engine") or ENGINE),
            "Image": str(options.get("local-image") or ""),
            "Memory": parse_memory(str(options.get("local-memory") or "")),
            "NanoCPUs": parse_cpus(str(options.get("local-cpus") or "")),
            "ContainerID": "",
        }

    @property
    def container_name(self) -> str:
        """Also the name of the volume that holds the inner engine's data."""
        return f"pymachine-{self.context.name}"

    @property
    def image(self) -> str:
        return text(self.settings, "Image") or local_image.IMAGE

    # create

    def check(self) -> None:
        with self._engine() as engine:
            found = _container(engine, self.container_name)
            if found is not None and not self._ours(found):
                raise Conflict(
                    f"the container {self.container_name} exists already and is not of this store",
                    hint="choose another name, or remove that container",
                )
            if self._image_is_current(engine):
                return
            if text(self.settings, "Image"):
                raise DriverError(
                    f"the image {self.image} is not on the engine {self._url}",
                    hint="pull, load or build it there first, or leave --local-image out",
                )
            if _image(engine, local_image.BASE) is None:
                raise DriverError(
                    f"the base image {local_image.BASE} is not on the engine {self._url}",
                    hint="make it with 'mmdebstrap --variant=minbase bookworm base.tar' and "
                    f"'docker -H {self._url} import base.tar {local_image.BASE}', or name an image of "
                    "your own with --local-image",
                )

    def steps(self) -> Sequence[Step]:
        return (
            Step("local:image", f"Preparing the machine image {self.image}", self._build),
            Step("local:container", "Creating the container", self._create),
            Step("local:start", "Starting the machine", self.start),
            Step("local:login", "Waiting for SSH", self._login),
        )

    def _build(self) -> None:
        with Store(self.context.store).lock_shared("image", timeout=_BUILD_SECONDS), self._engine() as engine:
            if text(self.settings, "Image") or self._image_is_current(engine):
                return
            lines: list[str] = []
            output: Iterator[dict[str, Any]] = engine.build(
                fileobj=io.BytesIO(local_image.build_context()),
                custom_context=True,
                tag=local_image.IMAGE,
                buildargs=_proxies(),
                rm=True,
                forcerm=True,
                decode=True,
                timeout=int(_BUILD_SECONDS),
            )
            for event in output:
                if "error" in event:
                    raise DriverError(
                        f"cannot build {local_image.IMAGE}",
                        detail="\n".join([str(event["error"]), *lines[-5:]]),
                        hint=f"containers on {self._url} must reach Debian's packages; see 'longshore doctor'",
                    )
                for line in str(event.get("stream", "")).splitlines():
                    if line.strip():
                        lines.append(line.strip())
                        self.context.progress.detail(line)

    def _create(self) -> None:
        """Container, volume, login key and host key. The host key's private half is never stored here."""
        with self._engine() as engine:
            half_made = _container(engine, self.container_name)
            if half_made is not None:
                if not self._ours(half_made):
                    raise Conflict(f"the container {self.container_name} is not of this store")
                engine.remove_container(half_made["Id"], force=True, v=True)
            login = make_key_pair(f"pymachine {self.context.name}")
            host = make_key_pair(f"root@{self.context.name}")
            write_atomic(self.context.files.key, login.private)
            write_atomic(self.context.files.key.with_suffix(".pub"), login.public + "\n", 0o644)
            container = str(self._create_container(engine)["Id"])
            identity = local_image.login_archive(host.private, host.public, login.public)
            if not engine.put_archive(container, "/", identity):
                raise DriverError(f"the engine {self._url} does not take the keys of {self.context.name!r}")
            keys = parse_host_keys(host.public)
            write_known_hosts(self.context.files.known_hosts, self.context.name, self.context.name, 22, keys)
            self.settings.update(ContainerID=container, SSHKeyPath=str(self.context.files.key))

    def _create_container(self, engine: Api) -> dict[str, Any]:
        """A machine: all rights (an engine runs inside), its data on a volume as overlays cannot be stacked."""
        host_config = engine.create_host_config(
            privileged=True,
            cgroupns="private",
            init=True,
            restart_policy={"Name": "unless-stopped"},
            binds=[f"{self.container_name}:{DATA_ROOT}"],
            tmpfs={"/run": "rw,exec,mode=755", "/tmp": "rw,exec,mode=1777"},
            mem_limit=number(self.settings, "Memory") or None,
            nano_cpus=number(self.settings, "NanoCPUs") or None,
        )
        created: dict[str, Any] = engine.create_container(
            self.image,
            name=self.container_name,
            hostname=self.context.name,
            labels=self._labels(),
            host_config=host_config,
        )
        return created

    def _login(self) -> None:
        wait_for_login(
            self.target,
            seconds=_LOGIN_SECONDS,
            still_running=self._still_running,
            tick=lambda: self.context.progress.detail("waiting for sshd"),
        ).close()

    # life

    def start(self) -> None:
        with self._engine() as engine:
            _inspect(engine, self._id)  # says it better when the container is gone
            engine.start(self._id)
            deadline = time.monotonic() + 10
            while not (address := _address(_inspect(engine, self._id))):
                self._still_running()
                if time.monotonic() > deadline:
                    raise DriverError(f"the container {self.container_name} gets no address")
                time.sleep(0.05)
        self.settings["IPAddress"] = address
        files = self.context.files
        write_known_hosts(files.known_hosts, self.context.name, address, 22, pinned(files.known_hosts))

    def stop(self) -> None:
        with self._engine() as engine:
            _inspect(engine, self._id)
            engine.stop(self._id, timeout=_STOP_SECONDS)

    def kill(self) -> None:
        with self._engine() as engine:
            if _state(_inspect(engine, self._id)) is State.RUNNING:
                engine.kill(self._id)
                engine.wait(self._id, timeout=_STOP_SECONDS, condition="not-running")

    def state(self, *, timeout: float = 10.0) -> State:
        with self._engine(timeout) as engine:
            return _state(_inspect(engine, self._id))

    def address(self) -> str:
        """From the engine: a restarted machine may have another address. The stored one when it is stopped."""
        if not self._id:
            return ""
        with self._engine() as engine:
            return _address(_inspect(engine, self._id)) or text(self.settings, "IPAddress")

    def remove(self) -> None:
        with self._engine() as engine:
            container = _container(engine, self.container_name)
            if container is not None and self._ours(container):
                engine.remove_container(container["Id"], force=True, v=True)
            if container is None or self._ours(container):
                try:
                    engine.remove_volume(self.container_name)
                except docker.errors.NotFound:
                    pass  # the create did not get that far

    # the engine

    @property
    def _url(self) -> str:
        return text(self.settings, "Engine")

    @property
    def _id(self) -> str:
        return text(self.settings, "ContainerID")

    @contextlib.contextmanager
    def _engine(self, timeout: float = 60.0) -> Generator[Api]:
        """A client of the carrying engine; its errors come out as ours."""
        try:
            client: Api = docker.APIClient(base_url=self._url, version="auto", timeout=int(timeout) or 1)
        except docker.errors.DockerException as cause:
            raise DriverError(
                f"the engine does not answer on {self._url}",
                detail=_root_cause(cause),
                hint="is longshored running? name another one with --local-engine",
            ) from cause
        try:
            yield client
        except docker.errors.APIError as cause:
            raise DriverError(
                f"the engine {self._url} refuses", detail=cause.explanation or str(cause)
            ) from cause
        except docker.errors.DockerException as cause:
            raise DriverError(f"the engine {self._url} failed", detail=str(cause)) from cause
        except requests.RequestException as cause:
            raise DriverError(f"the engine {self._url} broke off", detail=_root_cause(cause)) from cause
        finally:
            client.close()

    def _labels(self) -> dict[str, str]:
        return {NAME_LABEL: self.context.name, STORE_LABEL: str(self.context.store)}

    def _ours(self, container: Mapping[str, Any]) -> bool:
        labels = cast(dict[str, str], container["Config"].get("Labels") or {})
        return self._labels().items() <= labels.items()

    def _image_is_current(self, engine: Api) -> bool:
        found = _image(engine, self.image)
        if found is None:
            return False
        if text(self.settings, "Image"):
            return True
        config = cast(dict[str, Any], found.get("Config") or {})
        labels = cast(dict[str, str], config.get("Labels") or {})
        return labels.get(local_image.RECIPE_LABEL) == local_image.recipe()

    def _still_running(self) -> None:
        """Raise with the machine's last words when its container has ended."""
        with self._engine() as engine:
            found = _inspect(engine, self._id)
            if _state(found) in (State.RUNNING, State.STARTING):
                return
            words = str(engine.logs(self._id, tail=5).decode(errors="replace"))
        code = found["State"].get("ExitCode")
        raise DriverError(f"the container {self.container_name} ended with code {code}", detail=words)


def parse_memory(value: str) -> int:
    """Bytes; 0 for no limit. Raises InvalidInput."""
    if not value:
        return 0
    found = re.fullmatch(r"(\d+)([bkmgt]?)(?:i?b)?", value.lower())
    if not found:
        raise InvalidInput(f"--local-memory {value!r} is not a size", hint="like 512m or 2g")
    return int(found[1]) * _UNITS[found[2] or "m"]


def parse_cpus(value: str) -> int:
    """Billionths of a CPU, as the API has it; 0 for no limit. Raises InvalidInput."""
    if not value:
        return 0
    try:
        cpus = float(value)
        if not 0 < cpus <= 4096:
            raise ValueError
    except ValueError as cause:
        raise InvalidInput(f"--local-cpus {value!r} is not a number of CPUs", hint="like 2 or 0.5") from cause
    return round(cpus * 1e9)


def _container(engine: Api, name: str) -> dict[str, Any] | None:
    try:
        return engine.inspect_container(name)
    except docker.errors.NotFound:
        return None


def _inspect(engine: Api, container: str) -> dict[str, Any]:
    found = _container(engine, container) if container else None
    if found is None:
        raise DriverError("the machine's container is gone", hint="'pymachine rm' forgets the machine")
    return found


def _image(engine: Api, name: str) -> dict[str, Any] | None:
    try:
        return engine.inspect_image(name)
    except docker.errors.NotFound:
        return None


def _state(container: Mapping[str, Any]) -> State:
    return _STATES.get(str(container["State"].get("Status")), State.ERROR)


def _address(container: Mapping[str, Any]) -> str:
    """The container's address on its first network that gives one."""
    settings = cast(dict[str, Any], container.get("NetworkSettings") or {})
    networks = cast(dict[str, dict[str, Any]], settings.get("Networks") or {})
    for network in networks.values():
        if network.get("IPAddress"):
            return str(network["IPAddress"])
    return str(settings.get("IPAddress") or "")


def _proxies() -> dict[str, str]:
    """The proxies of this environment, as build arguments (predefined by the Dockerfile reference)."""
    names = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    return {name: os.environ[name] for name in names if name in os.environ}


def _root_cause(error: BaseException) -> str:
    """The innermost message: requests wraps the socket's error several times."""
    while error.__cause__ or error.__context__:
        error = cast(BaseException, error.__cause__ or error.__context__)
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
