"""Labels of containers, as clients use them."""

from __future__ import annotations

from moorage_api.containers import Container
from moorage_api.native import AUTO_REMOVE, EXIT_STATUS, EXITED_AT, LOG_PATH, NAME, STOP_SIGNAL

__all__ = ["AUTO_REMOVE", "EXITED_AT", "EXIT_STATUS", "LOG_PATH", "NAME", "STOP_SIGNAL", "fitting", "name_of"]

_LABEL_MAX = 4096


def name_of(container: Container) -> str:
    """The container's name; its short id where another client made it without one."""
    return container.labels.get(NAME) or container.id[:12]


def fitting(labels: dict[str, str]) -> dict[str, str]:
    """Those of an image's labels that a record can hold: key and value have at most 4096 bytes together."""
    return {
        key: value for key, value in labels.items() if key and len(key.encode()) + len(value.encode()) <= _LABEL_MAX
    }
