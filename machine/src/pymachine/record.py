"""What the store knows of one machine: the values of `machines/<name>/config.json`, in docker-machine's layout.

Tools read that file (the inventory plugin does): `Driver.IPAddress`, `Driver.SSHUser`, `Driver.SSHPort` and
`Driver.SSHKeyPath` say how to reach the machine, `known_hosts` beside it pins its host keys, and
`HostOptions.AuthOptions` names the certificates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pymachine.errors import StoreError

CONFIG_VERSION = 3  # docker-machine's last
ENGINE_PORT = 2376
BUNDLE_CACHE = "/var/cache/longshore"
REMOTE_TLS = "/etc/longshore/tls"


@dataclass(frozen=True, slots=True)
class MachineFiles:
    """Where a machine's files are. Pure: nothing needs to exist."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def journal(self) -> Path:
        return self.folder / "create.journal"

    @property
    def key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def client_certificate(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def client_key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def server_certificate(self) -> Path:
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.folder / "server-key.pem"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What `create --engine-…` asked for."""

    install: bool = True
    port: int = ENGINE_PORT
    bundle: str = ""
    cache: str = BUNDLE_CACHE
    options: tuple[str, ...] = ()  # key=value, as in daemon.json
    labels: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    sans: tuple[str, ...] = ()  # further names of the server certificate


@dataclass(slots=True)
class MachineRecord:
    """One machine. `driver` belongs to the driver: a JSON object with docker-machine's common keys in it."""

    name: str
    driver_name: str
    driver: dict[str, Any] = field(default_factory=dict[str, Any])
    engine: EngineOptions = field(default_factory=EngineOptions)
    created: str = ""


def encode(record: MachineRecord, store: Path) -> dict[str, Any]:
    """The JSON object of config.json."""
    files = MachineFiles(store / "machines" / record.name)
    certificates = store / "certs"
    engine = record.engine
    return {
        "ConfigVersion": CONFIG_VERSION,
        "Driver": {**record.driver, "MachineName": record.name, "StorePath": str(store)},
        "DriverName": record.driver_name,
        "HostOptions": {
            "EngineOptions": {
                "ArbitraryFlags": list(engine.options),
                "Bundle": engine.bundle,
                "BundleCache": engine.cache,
                "Install": engine.install,
                "Port": engine.port,
                "InsecureRegistry": list(engine.insecure_registries),
                "Labels": list(engine.labels),
                "RegistryMirror": list(engine.registry_mirrors),
                "TlsVerify": True,
            },
            "AuthOptions": {
                "CertDir": str(certificates),
                "CaCertPath": str(certificates / "ca.pem"),
                "CaPrivateKeyPath": str(certificates / "ca-key.pem"),
                "ClientCertPath": str(files.client_certificate),
                "ClientKeyPath": str(files.client_key),
                "ServerCertPath": str(files.server_certificate),
                "ServerKeyPath": str(files.server_key),
                "CaCertRemotePath": f"{REMOTE_TLS}/ca.pem",
                "ServerCertRemotePath": f"{REMOTE_TLS}/server-cert.pem",
                "ServerKeyRemotePath": f"{REMOTE_TLS}/server-key.pem",
                "ServerCertSANs": list(engine.sans),
                "StorePath": str(files.folder),
            },
        },
        "Name": record.name,
        "Created": record.created,
    }


def decode(value: object) -> MachineRecord:
    """Read a config.json's object. Raises StoreError that says what is wrong with it."""
    top = _mapping(value, "the file")
    version = top.get("ConfigVersion")
    if version != CONFIG_VERSION:
        raise StoreError(
            f"config version {version!r} is not understood", hint=f"this is version {CONFIG_VERSION}"
        )
    options = _mapping(top.get("HostOptions", {}), "HostOptions")
    engine = _mapping(options.get("EngineOptions", {}), "EngineOptions")
    auth = _mapping(options.get("AuthOptions", {}), "AuthOptions")
    return MachineRecord(
        name=text(top, "Name"),
        driver_name=text(top, "DriverName"),
        driver=dict(_mapping(top.get("Driver", {}), "Driver")),
        engine=EngineOptions(
            install=bool(engine.get("Install", True)),
            port=number(engine, "Port", ENGINE_PORT),
            bundle=text(engine, "Bundle", ""),
            cache=text(engine, "BundleCache", BUNDLE_CACHE),
            options=_texts(engine, "ArbitraryFlags"),
            labels=_texts(engine, "Labels"),
            insecure_registries=_texts(engine, "InsecureRegistry"),
            registry_mirrors=_texts(engine, "RegistryMirror"),
            sans=_texts(auth, "ServerCertSANs"),
        ),
        created=text(top, "Created", ""),
    )


def text(values: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A string of a JSON object; StoreError when it is missing (without a default) or of another type."""
    value = values.get(key, default)
    if not isinstance(value, str):
        raise StoreError(f"field {key} is not a text")
    return value


def number(values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """An integer of a JSON object; StoreError when it is missing (without a default) or of another type."""
    value = values.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise StoreError(f"field {key} is not a number")
    return value


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise StoreError(f"{where} is not a JSON object")
    return cast(dict[str, Any], value)


def _texts(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found: object = values.get(key) or []
    if not isinstance(found, list):
        raise StoreError(f"field {key} is not a list")
    return tuple(str(item) for item in cast(list[object], found))
