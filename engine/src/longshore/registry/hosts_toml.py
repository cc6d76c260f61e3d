"""The folder with a folder per registry: `certs.d/<host>/hosts.toml` as containerd reads it, or docker's certificates.

    certs.d/registry.example_5000_/   for registry.example:5000; without it
    certs.d/registry.example:5000/    and without that
    certs.d/_default/

With hosts.toml: its hosts in their order, then its `server`. Without: `*.crt` are authorities, `NAME.cert` and `NAME.key`
client certificates. Files are read at each pull, so a change needs no restart. Format:
https://github.com/containerd/containerd/blob/main/docs/hosts.md; `rewrite` is k3s's addition.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from longshore.errors import InvalidArgument
from longshore.oci.reference import DEFAULT_DOMAIN
from longshore.registry.hosts import EVERYTHING, HUB, Endpoint, RegistryRules, Tls

_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_KEYS = frozenset(
    {"capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout", "rewrite"}
)


def plan_endpoints(rules: RegistryRules, domain: str, capability: str) -> list[Endpoint]:
    """The hosts to ask, in order, for one thing: "pull", "resolve" or "push". Never empty.

    Reads the registry's folder. Raises InvalidArgument naming file and key.
    """
    folder = _folder(rules.config_path, domain)
    found = rules.endpoints(domain) if folder is None else _endpoints(rules, domain, folder)
    able = [endpoint for endpoint in found if capability in endpoint.capabilities]
    if capability == "push":
        able = [endpoint for endpoint in able if not (endpoint.is_mirror and not endpoint.namespace)]
    return able or [rules.own(domain)]


def _folder(roots: tuple[str, ...], domain: str) -> Path | None:
    host, colon, port = domain.rpartition(":")
    names = [f"{host}_{port}_", domain] if colon and port.isdigit() else [domain]
    for root in map(Path, roots):
        for name in [*names, "_default"]:
            if (root / name).is_dir():
                return root / name
    return None


def _endpoints(rules: RegistryRules, domain: str, folder: Path) -> list[Endpoint]:
    path = folder / "hosts.toml"
    try:
        text = path.read_text()
    except FileNotFoundError:
        tls = docker_certificates(folder)
        return [*rules.endpoints(domain)[:-1], rules.own(domain, tls)]
    except (OSError, UnicodeDecodeError) as cause:
        raise InvalidArgument(f"cannot read {path}", detail=str(cause)) from cause
    return parse_hosts_toml(text, path, domain, rules)


def docker_certificates(folder: Path) -> Tls:
    """docker's layout: ca.crt, client.cert with client.key. Raises InvalidArgument for half a pair."""
    authorities = tuple(str(path) for path in sorted(folder.glob("*.crt")))
    pairs: list[tuple[str, str]] = []
    for certificate in sorted(folder.glob("*.cert")):
        key = certificate.with_suffix(".key")
        if not key.exists():
            raise InvalidArgument(f"missing key {key.name} for client certificate {certificate}")
        pairs.append((str(certificate), str(key)))
    for key in folder.glob("*.key"):
        if not key.with_suffix(".cert").exists():
            raise InvalidArgument(f"missing client certificate {key.stem}.cert for key {key}")
    return Tls(authorities, tuple(pairs))


def parse_hosts_toml(text: str, path: Path, domain: str, rules: RegistryRules) -> list[Endpoint]:
    """Hosts in their order, then the server. Raises InvalidArgument naming the file and the key. Pure."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as cause:
        raise InvalidArgument(f"cannot read {path}", detail=str(cause)) from cause
    reader = _Reader(path, domain)
    hosts = reader.table(document, "host")
    found = [reader.endpoint(str(url), reader.table(hosts, str(url))) for url in hosts]
    own = {key: value for key, value in document.items() if key not in ("host", "server")}
    server = reader.text(document, "server")
    if server:
        found.append(reader.endpoint(server, own, is_server=True))
    elif own:
        endpoint = rules.own(domain)
        found.append(reader.endpoint(f"{endpoint.schemes[0]}://{endpoint.host}", own, is_server=True))
    else:
        found.append(rules.own(domain))
    return found


class _Reader:
    """Values of the file, each refused by name when it is of another type."""

    def __init__(self, path: Path, domain: str) -> None:
        self._path, self._domain = path, domain

    def endpoint(self, url: str, table: Mapping[str, Any], *, is_server: bool = False) -> Endpoint:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise self._bad(f"host {url!r}", "a URL like https://mirror.example")
        if unknown := sorted(set(table) - _KEYS):
            raise self._bad(unknown[0], "a key that containerd knows, or rewrite")
        host = HUB if parts.netloc == DEFAULT_DOMAIN else parts.netloc
        is_self = parts.netloc == self._domain or (self._domain == DEFAULT_DOMAIN and host == HUB)
        root = parts.path.rstrip("/")
        if not self.flag(table, "override_path") and not root.endswith("/v2"):
            root += "/v2"
        return Endpoint(
            host=host,
            schemes=(parts.scheme,),
            root=root,
            capabilities=EVERYTHING if is_server else self._capabilities(table),
            tls=Tls(
                tuple(map(self._file, self._strings(table, "ca"))),
                self._clients(table),
                self.flag(table, "skip_verify"),
            ),
            headers=self._headers(table),
            rewrites=self._rewrites(table),
            namespace="" if is_self else self._domain,
            is_mirror=not is_self,
            dial_timeout=self._duration(table),
        )

    def table(self, document: Mapping[str, Any], key: str) -> dict[str, Any]:
        value = document.get(key, {})
        if not isinstance(value, dict):
            raise self._bad(key, "a table")
        return cast("dict[str, Any]", value)

    def text(self, document: Mapping[str, Any], key: str) -> str:
        value = document.get(key, "")
        if not isinstance(value, str):
            raise self._bad(key, "a string")
        return value

    def flag(self, document: Mapping[str, Any], key: str) -> bool:
        value = document.get(key, False)
        if not isinstance(value, bool):
            raise self._bad(key, "true or false")
        return value

    def _strings(self, document: Mapping[str, Any], key: str) -> list[str]:
        """A string, or a list of them."""
        value = document.get(key, [])
        values = cast("list[Any]", value if isinstance(value, list) else [value])
        if not all(isinstance(item, str) for item in values):
            raise self._bad(key, "a string or a list of strings")
        return values

    def _capabilities(self, table: Mapping[str, Any]) -> frozenset[str]:
        named = frozenset(self._strings(table, "capabilities"))
        if unknown := sorted(named - EVERYTHING):
            raise self._bad(f"capability {unknown[0]!r}", "pull, resolve or push")
        return named or EVERYTHING

    def _clients(self, table: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """A path, a list of paths, or a list of pairs."""
        value = table.get("client", [])
        pairs: list[tuple[str, str]] = []
        for item in cast("list[Any]", value if isinstance(value, list) else [value]):
            pair = cast("list[Any]", item if isinstance(item, list) else [item, ""])
            if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                raise self._bad("client", "a path, a list of paths or a list of pairs")
            pairs.append((self._file(pair[0]), self._file(pair[1]) if pair[1] else ""))
        return tuple(pairs)

    def _headers(self, table: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        headers = self.table(table, "header")
        found = tuple((name, value) for name in headers for value in self._strings(headers, name))
        for name, value in found:
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\r\n\0]", value):
                raise self._bad(f"header {name!r}", "a header of one line")
        return found

    def _rewrites(self, table: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """k3s writes Go's `$1` for what a group caught."""
        rules = self.table(table, "rewrite")
        found: list[tuple[str, str]] = []
        for pattern in rules:
            literal = self.text(rules, pattern).replace("\\", r"\\")
            replacement = re.sub(r"\$\{?(\d+)\}?", r"\\g<\1>", literal)
            try:
                re.subn(pattern, replacement, "library/probe")
                compiled = re.compile(pattern)
            except (re.error, IndexError) as cause:
                raise self._bad(f"rewrite {pattern!r}", f"a regular expression ({cause})") from cause
            if any(int(number) > compiled.groups for number in re.findall(r"\\g<(\d+)>", replacement)):
                raise self._bad(f"rewrite {pattern!r}", "no more groups than the pattern has")
            found.append((pattern, replacement))
        return tuple(found)

    def _duration(self, table: Mapping[str, Any]) -> float:
        text = self.text(table, "dial_timeout")
        if not text:
            return Endpoint("").dial_timeout
        if not re.fullmatch(rf"(?:{_DURATION.pattern})+", text):
            raise self._bad("dial_timeout", "a duration like 1s")
        return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))

    def _file(self, name: str) -> str:
        return str(self._path.parent / name)

    def _bad(self, key: str, wanted: str) -> InvalidArgument:
        return InvalidArgument(f"invalid {self._path}", detail=f"{key}: {wanted} is wanted")
