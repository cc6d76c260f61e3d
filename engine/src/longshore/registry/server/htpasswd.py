"""Basic authentication from an htpasswd file with bcrypt hashes (htpasswd -B), read again when it changes."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from longshore.errors import InvalidArgument
from longshore.registry.server.access import Needed, Principal, judge_by_rules, parse_basic, quoted
from longshore.registry.server.refusals import Code, Refused
from longshore.registry.server.settings import Rule
from longshore.registry.server.threads import in_thread

# Compared with when the name is unknown, so that the time tells nothing: a hash of random bytes at htpasswd's cost.
_NOBODY = b"$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
_REMEMBERED = 1000


def parse_htpasswd(text: str, path: str) -> dict[str, bytes]:
    """{user: hash}. Raises InvalidArgument for other hashes than bcrypt, naming the line."""
    users: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        user, colon, hashed = line.partition(":")
        if not colon or not user or not hashed.startswith(("$2a$", "$2b$", "$2y$")):
            raise InvalidArgument(
                f"line {number} of {path} is no user with a bcrypt hash", hint="make it with htpasswd -B"
            )
        users[user] = hashed.encode()
    return users


class Passwords:
    """The file. `check` costs a bcrypt hash, once per password: what was right is remembered as a keyed hash."""

    def __init__(self, path: str) -> None:
        """Raises InvalidArgument."""
        self._path = Path(path)
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, None] = {}
        self._stamp: tuple[int, int] = (0, 0)
        self._users: dict[str, bytes] = {}
        self._load()

    def _load(self) -> None:
        try:
            status = self._path.stat()
            stamp = status.st_mtime_ns, status.st_ino
            if stamp != self._stamp:
                self._users = parse_htpasswd(self._path.read_text(), str(self._path))
                self._stamp = stamp
        except OSError as cause:
            raise InvalidArgument(
                f"cannot read {self._path}", detail=os.strerror(cause.errno or 0)
            ) from cause

    async def check(self, user: str, password: str) -> bool:
        """Whether the password is right."""
        import bcrypt

        try:
            self._load()
        except InvalidArgument:
            pass  # half-written by an editor: the last good one counts
        hashed = self._users.get(user, _NOBODY)
        mark = hmac.digest(self._key, b"\0".join((user.encode(), password.encode(), hashed)), hashlib.sha256)
        if mark in self._known:
            return True
        secret = password.encode()[:72]  # more than bcrypt looks at
        right = await in_thread(bcrypt.checkpw, secret, hashed) and user in self._users
        if right:
            if len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[mark] = None
        return right


class BasicAuthority:
    """access.Authority of an htpasswd file and the rules."""

    def __init__(self, passwords: Passwords, realm: str, rules: Sequence[Rule]) -> None:
        self._passwords, self._realm, self._rules = passwords, realm, rules

    async def identify(self, authorization: str) -> Principal:
        if not authorization:
            return Principal("", judge_by_rules("", self._rules))
        login = parse_basic(authorization)
        if login is None or not await self._passwords.check(*login):
            raise Refused(Code.UNAUTHORIZED, "unknown user or wrong password")
        return Principal(login[0], judge_by_rules(login[0], self._rules))

    def challenge(self, host: str, needed: Needed | None, error: str = "") -> str:
        return f"Basic {quoted({'realm': self._realm})}"
