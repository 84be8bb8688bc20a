"""The labels and extensions by which clients of Moorage know their containers."""

from __future__ import annotations

import msgspec

from moorage.options import ContainerOptions
from moorage_api.containers import Container
from moorage_api.types import TypedValue

NAME = "moorage.io/name"
LOG_PATH = "moorage.io/log-path"
EXIT_STATUS = "moorage.io/exit-status"
EXITED_AT = "moorage.io/exited-at"
STOP_SIGNAL = "moorage.io/stop-signal"
OPTIONS = "moorage.io/options"

_OPTIONS_TYPE = "moorage.io/container-options"
_LABEL_MAX = 4096


def name_of(container: Container) -> str:
    """The container's name; its short id where another client made it without one."""
    return container.labels.get(NAME) or container.id[:12]


def pack_options(options: ContainerOptions) -> TypedValue:
    """The options a container was made with, as its record keeps them for `inspect`."""
    return TypedValue(_OPTIONS_TYPE, msgspec.json.encode(options))


def options_of(container: Container) -> ContainerOptions | None:
    """The options in a record; None where another client made it, or they cannot be read."""
    value = container.extensions.get(OPTIONS)
    if value is None or value.type_url != _OPTIONS_TYPE:
        return None
    try:
        return msgspec.json.decode(value.value, type=ContainerOptions)
    except msgspec.DecodeError:
        return None


def fitting(labels: dict[str, str]) -> dict[str, str]:
    """Those of an image's labels that a record can hold: key and value have at most 4096 bytes together."""
    return {
        key: value for key, value in labels.items() if key and len(key.encode()) + len(value.encode()) <= _LABEL_MAX
    }
