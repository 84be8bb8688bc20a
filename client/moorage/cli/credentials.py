"""What the user is logged in with: docker's own file, where `docker login` keeps it, and the helpers that it names.

Source of the form: https://docs.docker.com/reference/cli/docker/login/ (`auths`, `credHelpers`, `credsStore`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from typing import Any

from moorage.cli.helpers import get, helper_for
from moorage_api.transfer import Credentials, CredentialSource

_HUB = "https://index.docker.io/v1/"
_HUB_HOSTS = ("docker.io", "registry-1.docker.io", "index.docker.io")


def stored_credentials(origins: dict[str, str] | None = None) -> CredentialSource:
    """Answers with what `$DOCKER_CONFIG/config.json` (`~/.docker/config.json`) has for a host, or the helper that it names.

    `origins` gets, by host, where the answer is from. Raises `FailedPrecondition` for a helper that cannot say.
    """

    async def source(host: str) -> Credentials | None:
        config, key = load_config(), key_of(host)
        program = helper_for(config, key)
        found = await asyncio.to_thread(get, program, key) if program else credentials_for(config, host)
        if origins is not None and found is not None:
            origins[host] = program or config_path()
        return found

    return source


def credentials_for(config: dict[str, Any], host: str) -> Credentials | None:
    """The entry for `host`, however its key is written; None where there is none that can be used."""
    auths = config.get("auths")
    if not isinstance(auths, dict):
        return None
    keys = [_HUB] if host in _HUB_HOSTS else []
    keys += [
        host,
        f"https://{host}",
        f"http://{host}",
        f"https://{host}/",
        f"https://{host}/v1/",
        f"https://{host}/v2/",
    ]
    entry = next((auths[key] for key in keys if isinstance(auths.get(key), dict)), None)
    return _credentials(entry) if entry is not None else None


def _credentials(entry: dict[str, Any]) -> Credentials | None:
    if entry.get("identitytoken"):
        return Credentials(secret=str(entry["identitytoken"]))
    if entry.get("registrytoken"):
        return Credentials(header=f"Bearer {entry['registrytoken']}")
    if entry.get("auth"):
        try:
            username, colon, secret = base64.b64decode(str(entry["auth"])).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return Credentials(username, secret.rstrip("\0")) if colon else None
    if entry.get("username"):
        return Credentials(str(entry["username"]), str(entry.get("password", "")))
    return None


def key_of(server: str) -> str:
    """The key under which docker keeps a registry: the host, and for Docker Hub its old address."""
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return _HUB if not host or host in _HUB_HOSTS else host


def config_path() -> str:
    """docker's configuration file."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    return os.path.join(folder, "config.json")


def load_config() -> dict[str, Any]:
    """docker's configuration; empty where there is none that can be read."""
    try:
        with open(config_path(), encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
