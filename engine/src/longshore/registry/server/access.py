"""Who may do what: principals, rules, and the challenge for those who may not. Pure but for what `Authority`s do."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple, Protocol

from longshore.registry.server.refusals import Code, Refused
from longshore.registry.server.routes import Route
from longshore.registry.server.settings import Rule

ANONYMOUS = "anonymous"
Judge = Callable[[str, str, str], bool]


class Needed(NamedTuple):
    """What a request needs: the words of a token's scope (https://distribution.github.io/distribution/spec/auth/scope/)."""

    kind: str
    name: str
    action: str

    @property
    def scope(self) -> str:
        """What to ask a token service for; whoever pushes has to look too."""
        actions = "pull,push" if self.action == "push" else self.action
        return f"{self.kind}:{self.name}:{actions}"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody, by name, "" for nobody; `judge` knows what he may do."""

    name: str
    judge: Judge

    def may(self, kind: str, name: str, action: str) -> bool:
        return self.judge(kind, name, action)


class Authority(Protocol):
    """A kind of authentication."""

    async def identify(self, authorization: str) -> Principal:
        """Raises Refused UNAUTHORIZED for wrong credentials; none at all are an anonymous principal."""
        ...

    def challenge(self, host: str, needed: Needed | None, error: str = "") -> str:
        """The value of WWW-Authenticate. `host`: the address that the client used."""
        ...


class Open:
    """No authentication: everybody may do everything."""

    async def identify(self, authorization: str) -> Principal:
        return EVERYBODY

    def challenge(self, host: str, needed: Needed | None, error: str = "") -> str:
        return ""


EVERYBODY = Principal("", lambda kind, name, action: True)


def needed_for(method: str, route: Route) -> Needed | None:
    """None: any login does (end-1)."""
    if route.kind == "base":
        return None
    if route.kind == "catalog":
        return Needed("registry", "catalog", "*")
    return Needed("repository", route.name, route.action(method))


async def admit(authority: Authority, authorization: str, host: str, needed: Needed | None) -> Principal:
    """The principal behind a request that it may make.

    Raises Refused UNAUTHORIZED with a challenge, or DENIED when logging in again would not help.
    """
    try:
        principal = await authority.identify(authorization)
    except Refused as refused:
        if refused.status == 401:
            refused.headers["WWW-Authenticate"] = authority.challenge(host, needed, "invalid_token")
        raise
    allowed = principal.may(*needed) if needed else principal.may("registry", "base", "pull")
    if allowed:
        return principal
    bearer = authorization.lower().startswith("bearer ")
    if principal.name and not bearer:
        raise Refused(Code.DENIED, f"{principal.name} may not {needed.action if needed else 'log in'}")
    challenge = authority.challenge(host, needed, "insufficient_scope" if bearer else "")
    raise Refused(Code.UNAUTHORIZED, headers={"WWW-Authenticate": challenge})


def judge_by_rules(user: str, rules: Sequence[Rule]) -> Judge:
    """What the rules let a user do; without rules whoever has a name may do everything."""

    def judge(kind: str, name: str, action: str) -> bool:
        if not rules:
            return bool(user)
        if kind == "registry" and name == "base":
            return bool(user) or any(ANONYMOUS in rule.users for rule in rules)
        if kind == "registry":
            return any(_holds(rule, user, "*") and "*" in rule.repositories for rule in rules)
        return any(
            _holds(rule, user, action) and any(fnmatchcase(name, each) for each in rule.repositories)
            for rule in rules
        )

    return judge


def _holds(rule: Rule, user: str, action: str) -> bool:
    known = ANONYMOUS in rule.users or (bool(user) and (user in rule.users or "*" in rule.users))
    return known and (action in rule.actions or "*" in rule.actions)


def parse_basic(authorization: str) -> tuple[str, str] | None:
    """(user, password) of `Basic …` (RFC 7617); None for anything else."""
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None


def quoted(parameters: Mapping[str, str]) -> str:
    """`a="b",c="d"` for a challenge; quotes and line breaks cannot get in."""
    safe = str.maketrans({'"': "", "\\": "", "\r": "", "\n": ""})
    return ",".join(f'{name}="{value.translate(safe)}"' for name, value in parameters.items())
