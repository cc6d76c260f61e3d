"""The daemon.json of a provisioned host. Pure."""

import json
from typing import Any

from pymachine.errors import InvalidInput
from pymachine.record import REMOTE_TLS, EngineOptions

SOCKET = "unix:///run/longshore/longshore.sock"


def daemon_settings(options: EngineOptions) -> dict[str, Any]:
    """dockerd's key names. What the user gave with --engine-opt comes last, but TLS stays on."""
    settings: dict[str, Any] = {}
    if options.labels:
        settings["labels"] = list(options.labels)
    if options.insecure_registries:
        settings["insecure-registries"] = list(options.insecure_registries)
    if options.registry_mirrors:
        settings["registry-mirrors"] = list(options.registry_mirrors)
    for option in options.options:
        key, value = parse_option(option)
        if key in settings and isinstance(settings[key], list) and isinstance(value, list):
            settings[key] += value
        else:
            settings[key] = value
    return {
        **settings,
        "hosts": [SOCKET, f"tcp://0.0.0.0:{options.port}"],
        "tlsverify": True,
        "tlscacert": f"{REMOTE_TLS}/ca.pem",
        "tlscert": f"{REMOTE_TLS}/server-cert.pem",
        "tlskey": f"{REMOTE_TLS}/server-key.pem",
    }


def parse_option(option: str) -> tuple[str, Any]:
    """`key=value` of --engine-opt: the value is JSON if it reads as JSON, else a text; a bare key is true."""
    key, separator, value = option.removeprefix("--").partition("=")
    if not key or any(character.isspace() for character in key):
        raise InvalidInput(f"--engine-opt {option!r} is not KEY=VALUE", hint="like log-level=debug")
    if key in ("hosts", "tls", "tlsverify", "tlscacert", "tlscert", "tlskey"):
        raise InvalidInput(
            f"--engine-opt cannot set {key!r}", hint="pymachine decides where the engine listens"
        )
    if not separator:
        return key, True
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def encode(settings: dict[str, Any]) -> bytes:
    """The file's bytes; the same settings give the same bytes, so that nothing restarts for nothing."""
    return json.dumps(settings, indent=2, sort_keys=True).encode() + b"\n"
