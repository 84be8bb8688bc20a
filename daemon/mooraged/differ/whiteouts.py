"""Deletions in a layer: what removes files of the layers below (OCI image specification, layer, whiteouts).

A whiteout is about the layers below only: what the same layer puts there stays, in whatever order the two come. The
classes have the same methods, which the extractor calls.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Protocol

from moorage_api.linux.tree import Left, remove_tree, walk

PREFIX = b".wh."
META_PREFIX = b".wh..wh."
OPAQUE = b".wh..wh..opq"
OVERLAY_OPAQUE = "trusted.overlay.opaque"
_WHITEOUT_DEVICE = os.makedev(0, 0)


class Whiteouts(Protocol):
    """How a target keeps deletions."""

    def made(self, fd: int, name: bytes) -> None:
        """The layer has an entry `name` in the folder `fd`."""

    def remove(self, fd: int, name: bytes, uid: int, gid: int) -> bool:
        """`name`, in the folder `fd`, is gone from the layers below. Returns whether a path may lead elsewhere now."""

    def opaque(self, fd: int) -> bool:
        """All that the layers below have in the folder `fd` is gone. Returns whether a path may lead elsewhere now."""

    def replaced(self, fd: int, name: bytes) -> None:
        """The new folder `name`, in the folder `fd`, stands where the target had something else, now removed."""


class OverlayWhiteouts:
    """For the upper folder of an overlay, which has nothing but this layer: as overlayfs wants them (kernel
    documentation, overlayfs, whiteouts and opaque directories)."""

    def made(self, fd: int, name: bytes) -> None:
        return

    def remove(self, fd: int, name: bytes, uid: int, gid: int) -> bool:
        try:
            os.mknod(name, stat.S_IFCHR, _WHITEOUT_DEVICE, dir_fd=fd)
        except FileExistsError:
            # This layer's own, which hides what is below; a folder does so only when it is opaque.
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                self._mark(fd, name)
        else:
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
        return False

    def opaque(self, fd: int) -> bool:
        os.setxattr(f"/proc/self/fd/{fd}", OVERLAY_OPAQUE, b"y")
        return False

    def replaced(self, fd: int, name: bytes) -> None:
        self._mark(fd, name)

    def _mark(self, fd: int, name: bytes) -> None:
        os.setxattr(os.fsencode(f"/proc/self/fd/{fd}/") + name, OVERLAY_OPAQUE, b"y", follow_symlinks=False)


class PlainWhiteouts:
    """For a folder that holds the layers below as well: what is to be gone is removed, if this layer did not make it.

    Entries are known by their folder's inode and their name, so that it does not matter by which path they came.
    """

    def __init__(self) -> None:
        self._made: set[tuple[int, bytes]] = set()
        self._opaque: set[int] = set()

    def made(self, fd: int, name: bytes) -> None:
        self._made.add((os.fstat(fd).st_ino, name))

    def remove(self, fd: int, name: bytes, uid: int, gid: int) -> bool:
        if (os.fstat(fd).st_ino, name) in self._made:
            folder = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                if stat.S_ISDIR(os.fstat(folder).st_mode):
                    self.opaque(folder)
            finally:
                os.close(folder)
            return True
        try:
            return remove_entry(fd, name)
        except FileNotFoundError:
            return False

    def opaque(self, fd: int) -> bool:
        """Remove what this layer did not make. A folder is emptied at most once, so that a layer of many markers costs
        no more than its entries and the files below."""
        if os.fstat(fd).st_ino in self._opaque:
            return False
        inodes: list[int] = []
        for event in walk(f"/proc/self/fd/{fd}/."):
            if isinstance(event, Left):
                inodes.pop()
                name = os.fsencode(event.name)
                if event.fd >= 0 and (inodes[-1], name) not in self._made:
                    # Stays where it holds something of this layer.
                    with suppress(OSError):
                        os.rmdir(name, dir_fd=event.fd)
                continue
            inode = os.fstat(event.fd).st_ino
            inodes.append(inode)
            if inode in self._opaque:
                event.folders.clear()
                continue
            self._opaque.add(inode)
            folders = set(event.folders)
            for entry in event.entries:
                if entry.name not in folders and (inode, os.fsencode(entry.name)) not in self._made:
                    os.unlink(entry.name, dir_fd=event.fd)
        return True

    def replaced(self, fd: int, name: bytes) -> None:
        return


class NothingBelow:
    """For a folder that was empty, and holds all there is: nothing of this layer goes, and nothing else is there."""

    def made(self, fd: int, name: bytes) -> None:
        return

    def remove(self, fd: int, name: bytes, uid: int, gid: int) -> bool:
        return False

    def opaque(self, fd: int) -> bool:
        return False

    def replaced(self, fd: int, name: bytes) -> None:
        return


def remove_entry(fd: int, name: bytes) -> bool:
    """Remove `name`, whatever it is, from the folder `fd`; returns whether a path may lead elsewhere now: it was a folder
    or a link."""
    mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        remove_tree(os.fsdecode(os.fsencode(f"/proc/self/fd/{fd}/") + name))
        return True
    os.unlink(name, dir_fd=fd)
    return stat.S_ISLNK(mode)
