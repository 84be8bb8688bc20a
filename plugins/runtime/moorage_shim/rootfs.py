"""A container's root file system: the mounts that its snapshotter describes, in the bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from moorage_api.errors import FailedPrecondition
from moorage_api.linux import idmapped, mount, syscalls
from moorage_api.mounts import Mount
from moorage_shim import log
from moorage_shim.processes import Forker

_MOUNT_TIMEOUT = 60.0
_QUICK = ("overlay", "bind", "tmpfs")
_UNMOUNT_TRIES = 20
_UNMOUNT_PAUSE = 0.05


class Rootfs:
    """Mounts at one folder, all or none; without any, whatever lies there is the root file system."""

    def __init__(self, forker: Forker, mounts: Sequence[Mount], folder: str) -> None:
        self._forker = forker
        self._mounts = mounts
        self._folder = folder

    async def mount(self) -> None:
        """What may wait for a disk, a network or a program (FUSE), or needs a user namespace, is mounted by a helper,
        under a deadline."""
        if not self._mounts:
            return
        what = f"failed to mount rootfs at {self._folder}"
        try:
            with suppress(FileExistsError):
                os.mkdir(self._folder, 0o711)
            if all(each.type in _QUICK and not idmapped.is_mapped(each) for each in self._mounts):
                mount.mount_all(self._mounts, self._folder)
            else:
                await self._forker.call(self._mount_all, _MOUNT_TIMEOUT, what)
        except OSError as error:
            raise FailedPrecondition(f"{what}: {error}") from error

    async def unmount(self) -> None:
        """Busy for long means that a file in it is open elsewhere: then it goes when that is closed."""
        if not self._mounts:
            return
        for _ in range(_UNMOUNT_TRIES):
            try:
                mount.unmount_recursive(self._folder, patience=0)
            except OSError:
                await self._forker.loop.sleep(_UNMOUNT_PAUSE)
            else:
                return
        log.warning(f"{self._folder} is busy and unmounted lazily")
        mount.unmount_recursive(self._folder, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)

    def _mount_all(self) -> None:
        mount.mount_all(self._mounts, self._folder)
