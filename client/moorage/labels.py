"""The labels by which clients of Moorage know their containers."""

from __future__ import annotations

from moorage_api.containers import Container

NAME = "moorage.io/name"
LOG_PATH = "moorage.io/log-path"
EXIT_STATUS = "moorage.io/exit-status"
EXITED_AT = "moorage.io/exited-at"
STOP_SIGNAL = "moorage.io/stop-signal"
AUTO_REMOVE = "moorage.io/auto-remove"

_LABEL_MAX = 4096


def name_of(container: Container) -> str:
    """The container's name; its short id where another client made it without one."""
    return container.labels.get(NAME) or container.id[:12]


def fitting(labels: dict[str, str]) -> dict[str, str]:
    """Those of an image's labels that a record can hold: key and value have at most 4096 bytes together."""
    return {
        key: value for key, value in labels.items() if key and len(key.encode()) + len(value.encode()) <= _LABEL_MAX
    }
