"""Network configurations: what a valid one is (CNI specification, section 1)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from moorage_api.errors import InvalidArgument

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_OLDEST = (0, 3, 0)
_DEFAULT_VERSION = "0.3.1"


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One network: its plugins in the order of ADD, each as the object that it is given."""

    name: str
    version: str
    plugins: tuple[dict[str, Any], ...]

    def document(self) -> dict[str, Any]:
        """As a configuration list has it."""
        return {"cniVersion": self.version, "name": self.name, "plugins": list(self.plugins)}


def parse(data: bytes, where: str) -> NetworkConfig:
    """A configuration list, or a single plugin's configuration as a list of one. `InvalidArgument`, naming `where`."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise InvalidArgument(f"CNI configuration {where} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(f"CNI configuration {where} is not a JSON object")
    return of_document(document, where)


def of_document(document: dict[str, Any], where: str) -> NetworkConfig:
    """As `parse`, of what JSON already gave."""
    plugins = document.get("plugins", [document])
    if not isinstance(plugins, list) or not plugins:
        raise InvalidArgument(f"CNI configuration {where} has no plugins")
    for plugin in plugins:
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        # The type is the name of a program in one of the configured folders, never a path.
        if not isinstance(kind, str) or not kind or "/" in kind or kind in (".", ".."):
            raise InvalidArgument(f"CNI configuration {where} has a plugin without a valid type: {kind!r}")
    name, version = document.get("name"), document.get("cniVersion", _DEFAULT_VERSION)
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidArgument(f"CNI configuration {where} has no valid network name: {name!r}")
    return NetworkConfig(name, _version(version, where), tuple(plugins))


def _version(version: object, where: str) -> str:
    parts = version.split(".") if isinstance(version, str) else []
    if len(parts) != 3 or not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise InvalidArgument(f"CNI configuration {where} has no valid cniVersion: {version!r}")
    if tuple(map(int, parts)) < _OLDEST:
        raise InvalidArgument(f"CNI configuration {where} is of version {version}: at least 0.3.0 is needed")
    return ".".join(parts)
