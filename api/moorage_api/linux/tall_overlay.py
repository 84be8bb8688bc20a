"""Overlays of more layers than a page of mount options holds: through the new mount API, a layer at a time.

Linux takes a layer at a time since 6.7, and 500 in all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from moorage_api.linux import syscalls

_LOWER = "lowerdir="
_ATTRIBUTES = {
    syscalls.MS_RDONLY: syscalls.MOUNT_ATTR_RDONLY,
    syscalls.MS_NOSUID: syscalls.MOUNT_ATTR_NOSUID,
    syscalls.MS_NODEV: syscalls.MOUNT_ATTR_NODEV,
    syscalls.MS_NOEXEC: syscalls.MOUNT_ATTR_NOEXEC,
}


def mount_tall(options: Sequence[str], flags: int, target: str) -> None:
    """Mount an overlay at `target`; `options` are those of the file system, `flags` those of mount(2)."""
    context = syscalls.FileSystemContext("overlay")
    try:
        for option in options:
            if option.startswith(_LOWER):
                for layer in option.removeprefix(_LOWER).split(":"):
                    context.set("lowerdir+", layer)
            else:
                key, equals, value = option.partition("=")
                context.set(key, value if equals else None)
        attributes = sum(attribute for flag, attribute in _ATTRIBUTES.items() if flags & flag)
        tree = context.mount(attributes)
    finally:
        context.close()
    attach_tree(tree, target)


def attach_tree(tree: int, target: str) -> None:
    """Attach a detached mount, whose descriptor is closed with this."""
    try:
        # Opened, since unlike mount(2) the call follows no link, which `/proc/self/fd` has.
        place = os.open(target, os.O_PATH | os.O_CLOEXEC)
        try:
            syscalls.move_mount(tree, "", place)
        finally:
            os.close(place)
    finally:
        os.close(tree)
