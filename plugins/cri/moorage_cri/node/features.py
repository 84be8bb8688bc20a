"""What a runtime handler can do on this host, as Status tells it and RunPodSandbox asks."""

from __future__ import annotations

import platform
from functools import cache

from moorage_cri.config import OWN_SHIM, RuntimeHandler

# mount_setattr(2), which a recursive read-only mount takes, and ID-mapped layers of an overlay.
_RECURSIVE_READ_ONLY = (5, 12)
_ID_MAPPED_LAYERS = (5, 19)
_MOST_USER_NAMESPACES = "/proc/sys/user/max_user_namespaces"


@cache
def kernel() -> tuple[int, int]:
    """Major and minor version of the running kernel."""
    major, minor, *_ = platform.release().split(".")
    return int(major), int("".join(character for character in minor if character.isdecimal()))


def recursive_read_only(handler: RuntimeHandler) -> bool:
    """Whether a mount can be made read-only with all mounts below it."""
    return handler.runtime_type in OWN_SHIM and kernel() >= _RECURSIVE_READ_ONLY


def user_namespace_problem(handler: RuntimeHandler) -> str:
    """Why pods of a handler cannot have user namespaces; empty where they can."""
    if handler.runtime_type not in OWN_SHIM:
        return f"shim {handler.runtime_type} makes no namespaces for pods"
    if kernel() < _ID_MAPPED_LAYERS:
        return "ID-mapped layers need Linux 5.19"
    try:
        with open(_MOST_USER_NAMESPACES, encoding="ascii") as file:
            allowed = int(file.read())
    except FileNotFoundError:
        return "the kernel has no user namespaces"
    return "" if allowed else f"{_MOST_USER_NAMESPACES} is 0"
