"""Where a layer is extracted to: the folder behind the mounts, without mounting them where that is possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from moorage_api.linux import syscalls
from moorage_api.linux.mount import temporary_mount
from moorage_api.mounts import Mount
from mooraged.differ.whiteouts import OverlayWhiteouts, PlainWhiteouts, Whiteouts

_PLAIN_BIND = frozenset(("bind", "rbind", "rw"))


@dataclass(frozen=True, slots=True)
class Target:
    """A folder to extract into, how it keeps deletions, and the folders below it where it does not hold their files;
    `mounted`: it ends with the context."""

    root: str
    whiteouts: Whiteouts
    lower: tuple[str, ...] = ()
    mounted: bool = False


@contextmanager
def target(mounts: Sequence[Mount], scratch: str, *, apart: bool = False) -> Iterator[Target]:
    """The target that `mounts` describe. `OSError` where they cannot be mounted.

    An overlay's upper folder is written directly, with whiteouts as overlayfs keeps them; a bind mount's source too.
    With `apart` that source is an upper folder whose overlay comes later (`ValueError` for other mounts).
    Anything else is mounted below `scratch`, seen by this thread alone: the mount ends with the thread at the latest.
    Must be called in a thread that does nothing else afterwards.
    """
    if len(mounts) == 1 and not mounts[0].target:
        mount = mounts[0]
        upper = overlay_option(mount, "upperdir")
        if upper and "userxattr" not in mount.options:
            lower = overlay_option(mount, "lowerdir")
            yield Target(upper, OverlayWhiteouts(), tuple(lower.split(":")) if lower else ())
            return
        if mount.type == "bind" and _PLAIN_BIND.issuperset(mount.options):
            yield Target(mount.source, OverlayWhiteouts() if apart else PlainWhiteouts())
            return
    if apart:
        raise ValueError("a layer can be extracted apart into a plain folder only")
    enter_private_mounts()
    with temporary_mount(mounts, scratch) as root:
        yield Target(root, PlainWhiteouts(), mounted=True)


def overlay_option(mount: Mount, key: str) -> str:
    """The value of an option of an overlay mount; empty where it has none, or is no overlay."""
    if mount.type != "overlay":
        return ""
    return next((option.partition("=")[2] for option in mount.options if option.startswith(f"{key}=")), "")


def enter_private_mounts() -> None:
    """Give the calling thread a mount namespace of its own: what it mounts nobody sees, and nobody has to unmount."""
    syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
