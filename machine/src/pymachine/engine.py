"""Talking to the engine on a machine, by docker-py over mutual TLS."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import docker
import docker.errors
import requests
from docker.tls import TLSConfig

from pymachine.errors import EngineUnreachable

_API = "1.41"  # of a version request; any that the engine serves would do


def version(url: str, certificates: Path | None, *, timeout: float = 10.0) -> str:
    """Ping the engine and return its version. Raises EngineUnreachable, whose text says which side is at fault."""
    try:
        tls = _tls(certificates) if certificates is not None else False
        # A fixed version, because "auto" would ask before trust_env is off. requests lets REQUESTS_CA_BUNDLE
        # and HTTPS_PROXY win over a session's own settings, and neither is meant for our engines.
        client: Any = docker.APIClient(base_url=url, tls=tls, version=_API, timeout=max(1, int(timeout)))
        client.trust_env = False
        try:
            client.ping()
            return str(client.version(api_version=False)["Version"])
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException, OSError) as cause:
        raise EngineUnreachable(
            f"the engine does not answer on {url}", detail=_reason(cause), hint=_hint(cause)
        ) from cause


def wait(url: str, certificates: Path | None, *, seconds: float, tick: Callable[[], None]) -> str:
    """The version, as soon as the engine answers. A certificate that is refused does not get better by waiting."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return version(url, certificates, timeout=5)
        except EngineUnreachable as cause:
            if time.monotonic() > deadline or "certificate" in cause.detail.lower():
                raise
        tick()
        time.sleep(0.2)


def _tls(folder: Path) -> TLSConfig:
    return TLSConfig(
        client_cert=(str(folder / "cert.pem"), str(folder / "key.pem")),
        ca_cert=str(folder / "ca.pem"),
        verify=True,
    )


def _reason(error: BaseException) -> str:
    """The innermost message: docker-py and requests wrap the socket's error several times."""
    while error.__cause__ or error.__context__:
        error = cast(BaseException, error.__cause__ or error.__context__)
    return str(error) or type(error).__name__


def _hint(error: BaseException) -> str:
    reason = _reason(error).lower()
    if "certificate" in reason or "ssl" in reason or "tls" in reason:
        return "'pymachine regenerate-certs' renews the certificates"
    return "'pymachine provision' repairs the engine, 'pymachine start' starts the machine"
