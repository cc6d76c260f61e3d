"""The configuration, with the names of distribution's (https://distribution.github.io/distribution/about/configuration/).

Keys of distribution that are listed here and marked unused are read and ignored, so that Debian's config.yml for
docker-registry works as it is; unknown keys are errors. What distribution has no name for is in `limits`, `gc`,
`auth.access`, `auth.tokenservice` and `http.plain`.
"""

import copy
import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml

from longshore.errors import InvalidArgument

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Seconds(float):
    """A length of time; written as Go does: "1h30m", "500ms", or a number of seconds."""


def parse_duration(value: object) -> Seconds:
    """Raises InvalidArgument."""
    text = str(value).strip()
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return Seconds(value)
    if text.isdigit() or (text and not _DURATION.sub("", text)):
        if text.isdigit():
            return Seconds(text)
        return Seconds(sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text)))
    raise InvalidArgument(f"invalid duration {text!r}", hint="write it like 90s, 1h30m or 168h")


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class AccessLog(_Part, frozen=True):
    disabled: bool = False


class Log(_Part, frozen=True):
    level: str = "info"
    accesslog: AccessLog = AccessLog()
    formatter: str = "text"  # unused
    fields: dict[str, Any] = {}  # unused


class Filesystem(_Part, frozen=True):
    rootdirectory: str = "/var/lib/longshore/registry"
    maxthreads: int = 100  # unused


class Delete(_Part, frozen=True):
    enabled: bool = True


class UploadPurging(_Part, frozen=True):
    enabled: bool = True
    age: Seconds = Seconds(168 * 3600)
    interval: Seconds = Seconds(24 * 3600)
    dryrun: bool = False  # unused


class ReadOnly(_Part, frozen=True):
    enabled: bool = False


class Maintenance(_Part, frozen=True):
    uploadpurging: UploadPurging = UploadPurging()
    readonly: ReadOnly = ReadOnly()


class Storage(_Part, frozen=True):
    filesystem: Filesystem = Filesystem()
    delete: Delete = Delete()
    maintenance: Maintenance = Maintenance()
    cache: dict[str, Any] = {}  # unused: the kernel's page cache does it
    redirect: dict[str, Any] = {}  # unused


class GarbageCollection(_Part, frozen=True):
    """While serving. `grace`: how long a blob that no manifest names is kept after somebody saw it."""

    enabled: bool = True
    interval: Seconds = Seconds(3600)
    grace: Seconds = Seconds(24 * 3600)
    deleteuntagged: bool = False


class Htpasswd(_Part, frozen=True):
    path: str
    realm: str = "Registry Realm"


class Token(_Part, frozen=True):
    """Tokens of a service elsewhere, checked by its certificates or its JWKS."""

    realm: str
    service: str
    issuer: str
    rootcertbundle: str = ""
    jwks: str = ""
    signingalgorithms: tuple[str, ...] = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA")


class TokenService(_Part, frozen=True):
    """Our own: GET /auth/token gives tokens to the users of an htpasswd file."""

    path: str
    service: str = "longshore-registry"
    issuer: str = "longshore-registry"
    realm: str = ""  # the address of /auth/token as clients see it; the request's own otherwise
    expiration: Seconds = Seconds(300)


class Rule(_Part, frozen=True):
    """`users` may do `actions` (pull, push, delete, *) in repositories that match one of `repositories`.

    Patterns are those of a shell, where * takes slashes too. The user "anonymous" is everybody without a login.
    """

    repositories: list[str]
    users: list[str]
    actions: tuple[str, ...] = ("pull",)


class Auth(_Part, frozen=True):
    htpasswd: Htpasswd | None = None
    token: Token | None = None
    tokenservice: TokenService | None = None
    access: list[Rule] = []  # none: who is logged in may do everything


class Tls(_Part, frozen=True):
    certificate: str = ""
    key: str = ""
    clientcas: list[str] = []
    clientauth: str = "require-and-verify-client-cert"
    minimumtls: str = "tls1.2"


class Prometheus(_Part, frozen=True):
    enabled: bool = False
    path: str = "/metrics"


class Debug(_Part, frozen=True):
    addr: str = ""
    prometheus: Prometheus = Prometheus()


class Http(_Part, frozen=True):
    addr: str = "127.0.0.1:5000"
    host: str = ""
    relativeurls: bool = True
    draintimeout: Seconds = Seconds(60)
    plain: bool = False  # HTTP without TLS on addresses that others reach
    tls: Tls = Tls()
    debug: Debug = Debug()
    headers: dict[str, list[str]] = {}
    secret: str = ""  # unused: upload addresses carry no state
    net: str = "tcp"  # unused
    http2: dict[str, Any] = {}  # unused


class Ignore(_Part, frozen=True):
    mediatypes: list[str] = []
    actions: list[str] = []


class Endpoint(_Part, frozen=True):
    name: str
    url: str
    disabled: bool = False
    headers: dict[str, list[str]] = {}
    timeout: Seconds = Seconds(5)
    threshold: int = 5
    backoff: Seconds = Seconds(10)
    ignoredmediatypes: list[str] = []
    ignore: Ignore = Ignore()


class EventsConfig(_Part, frozen=True):
    includereferences: bool = False  # unused


class Notifications(_Part, frozen=True):
    endpoints: list[Endpoint] = []
    events: EventsConfig = EventsConfig()


class ProxyConfig(_Part, frozen=True):
    remoteurl: str = ""
    username: str = ""
    password: str = ""
    ttl: Seconds = Seconds(168 * 3600)


class Catalog(_Part, frozen=True):
    maxentries: int = 1000


class Tags(_Part, frozen=True):
    maxtags: int = 1000


class Indexes(_Part, frozen=True):
    platforms: str = "all"  # "none": an index may name manifests that are not here


class ManifestChecks(_Part, frozen=True):
    indexes: Indexes = Indexes()
    urls: dict[str, Any] = {}  # unused: foreign layers are never fetched


class Validation(_Part, frozen=True):
    disabled: bool = False  # unused
    manifests: ManifestChecks = ManifestChecks()


class Limits(_Part, frozen=True):
    """Against slow and huge clients."""

    idle: Seconds = Seconds(60)  # without a byte of a request's body
    stall: Seconds = Seconds(120)  # for 8 MiB of a reply
    head: Seconds = Seconds(30)  # from the connection to its first whole request head
    linger: Seconds = Seconds(5)  # for reading away what a refused client still sends
    maxconnections: int = 1024
    maxblobsize: int = 0  # bytes; 0: as the disk has
    minchunk: int = 0  # announced as OCI-Chunk-Min-Length
    spacecheck: int = 1 << 20  # bodies above it are compared with the free space before they are read
    referrerspage: int = 4 << 20  # bytes of one page of referrers


class Settings(_Part, frozen=True):
    version: float | str = 0.1
    log: Log = Log()
    loglevel: str = ""  # unused
    storage: Storage = Storage()
    gc: GarbageCollection = GarbageCollection()
    auth: Auth = Auth()
    http: Http = Http()
    notifications: Notifications = Notifications()
    proxy: ProxyConfig = ProxyConfig()
    catalog: Catalog = Catalog()
    tags: Tags = Tags()
    validation: Validation = Validation()
    limits: Limits = Limits()
    health: dict[str, Any] = {}  # unused: storage is always checked

    @property
    def root(self) -> Path:
        return Path(self.storage.filesystem.rootdirectory)


def read_settings(path: str, overrides: Iterable[str] = ()) -> Settings:
    """From a YAML or TOML file, "" for none, and `a.b.c=value` words. Raises InvalidArgument naming the key."""
    return make_settings(with_words(_read(path) if path else {}, overrides))


def with_words(document: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """The document with `a.b.c=value` words set; the given one stays as it is. Raises InvalidArgument."""
    changed = copy.deepcopy(dict(document))
    for word in words:
        _set(changed, word)
    return changed


def _read(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text()
        value: Any = tomllib.loads(text) if path.endswith(".toml") else yaml.safe_load(text)
    except OSError as cause:
        raise InvalidArgument(f"cannot read the configuration {path}", detail=cause.strerror or "") from cause
    except (yaml.YAMLError, ValueError) as cause:
        raise InvalidArgument(
            f"the configuration {path} is neither YAML nor TOML", detail=str(cause)
        ) from cause
    if not isinstance(value, dict):
        raise InvalidArgument(f"the configuration {path} holds no keys")
    return cast("dict[str, Any]", value)


def _set(document: dict[str, Any], word: str) -> None:
    """`http.addr=:5000`; a value that begins like a list or a map is read as YAML, any other is text."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise InvalidArgument(f"invalid setting {word!r}", hint="write it like http.addr=127.0.0.1:5000")
    *parents, last = key.split(".")
    place = document
    for name in parents:
        below = place.setdefault(name, {})
        if not isinstance(below, dict):
            raise InvalidArgument(f"invalid setting {word!r}", detail=f"{name} holds a value, no keys")
        place = cast("dict[str, Any]", below)
    try:
        place[last] = yaml.safe_load(text) if text.startswith(("[", "{")) else text
    except yaml.YAMLError as cause:
        raise InvalidArgument(f"invalid setting {word!r}", detail=str(cause)) from cause


def make_settings(document: Mapping[str, Any]) -> Settings:
    """Convert and check before anything is touched. Raises InvalidArgument."""
    try:
        settings = msgspec.convert(document, Settings, dec_hook=_decode, strict=False)
    except (msgspec.ValidationError, ValueError) as cause:
        raise InvalidArgument("invalid configuration of the registry", detail=str(cause)) from cause
    check(settings)
    return settings


def _decode(kind: type, value: Any) -> Any:
    if kind is Seconds:
        try:
            return parse_duration(value)
        except InvalidArgument as cause:
            raise ValueError(str(cause)) from cause
    raise NotImplementedError(kind)


def check(settings: Settings) -> None:
    """Refuse what cannot work. Raises InvalidArgument."""
    auth, http = settings.auth, settings.http
    kinds = [name for name in ("htpasswd", "token", "tokenservice") if getattr(auth, name) is not None]
    if len(kinds) > 1:
        raise InvalidArgument("only one kind of authentication at a time", detail=" and ".join(kinds))
    if auth.token and not (auth.token.rootcertbundle or auth.token.jwks):
        raise InvalidArgument("auth.token needs rootcertbundle or jwks")
    if auth.access and auth.token:
        raise InvalidArgument(
            "auth.access and auth.token exclude each other", hint="the token service decides"
        )
    if bool(http.tls.certificate) != bool(http.tls.key):
        raise InvalidArgument("http.tls needs both certificate and key")
    if http.tls.clientcas and not http.tls.certificate:
        raise InvalidArgument("http.tls.clientcas without http.tls.certificate")
    host, _ = parse_address(http.addr)
    if not (http.tls.certificate or http.plain or is_loopback(host)):
        raise InvalidArgument(
            f"refusing to serve plain HTTP on {http.addr}",
            detail="passwords and images would travel in the clear",
            hint="give http.tls.certificate and http.tls.key, or http.plain=true where a proxy does TLS",
        )
    if http.debug.addr:
        parse_address(http.debug.addr)
    if settings.validation.manifests.indexes.platforms not in ("all", "none"):
        raise InvalidArgument("validation.manifests.indexes.platforms is all or none")
    for endpoint in settings.notifications.endpoints:
        if not endpoint.url.startswith(("http://", "https://")):
            raise InvalidArgument(
                f"notifications endpoint {endpoint.name!r} has no http address", detail=endpoint.url
            )
    if settings.proxy.remoteurl and not settings.proxy.remoteurl.startswith(("http://", "https://")):
        raise InvalidArgument("proxy.remoteurl is no http address", detail=settings.proxy.remoteurl)


def parse_address(text: str) -> tuple[str, int]:
    """`host:port`, `:port` for all addresses, `[::1]:port`; port 0 takes a free one. Raises InvalidArgument."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"invalid address {text!r}", hint="write it like 127.0.0.1:5000 or :5000")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
