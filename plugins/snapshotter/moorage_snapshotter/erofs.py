"""The erofs snapshotter: a committed layer is one file, an EROFS image; an active snapshot is an overlay on such images.

Layout below `snapshots/ID/`:

- active: `fs` and `work` as in an overlay; `.erofslayer` where somebody is about to unpack a layer, who may then write it as
  `layer.erofs` (`moorage_api.erofs.layer`);
- committed: `layer.erofs`, and `layer`, where it is mounted from the first time that something stands on it until it is
  removed or the snapshotter closed. Overlays keep what they stand on; that it is unmounted is nothing to them;
- committed with nothing in it: `fs` and `work`, as in an overlay: to write an image of nothing and bring it to disk takes longer
  than all else of a commit, and an empty folder is made again after a power cut. The record's usage tells which of the two it is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from moorage_api.erofs import layout
from moorage_api.erofs.folder import write_folder
from moorage_api.erofs.layer import IMAGE, MARKER, keep_image, new_image
from moorage_api.errors import FailedPrecondition
from moorage_api.folder_snapshotter import FolderSnapshotter
from moorage_api.linux import syscalls
from moorage_api.linux.mount import unmount_all, unmount_recursive
from moorage_api.linux.tree import remove_tree
from moorage_api.mounts import Mount
from moorage_api.snapshot_tree import Record
from moorage_api.snapshots import Info, Kind, Usage
from moorage_snapshotter.image_mount import mount_image
from moorage_snapshotter.overlay import looks_new, show, take_root

_TARGET_LABEL = "containerd.io/snapshot.ref"
_UNPACK_PREFIX = "extract-"
_IMAGE_AND_FOLDER = 2
"""Inodes of a committed snapshot: its image, and where that is mounted."""
_LET_GO = syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW


class ErofsSnapshotter(FolderSnapshotter):
    """Layers as images, with `options` on each overlay."""

    rebases = True
    makes_again = True

    def __init__(
        self, root: Path, options: Sequence[str] = (), *, durable: bool = True, remove_at_once: bool = True
    ) -> None:
        self._options = tuple(options)
        self._mounting = threading.Lock()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._device = os.stat(root).st_dev
        super().__init__(root, durable=durable, remove_at_once=remove_at_once)
        for info in self.walk():
            self._tidy(self.record(info.name))

    def content(self, id: int) -> str:
        return f"{self.folder(id)}/fs"

    def make(self, snapshot: Record, folder: str) -> None:
        below = self._layer(snapshot.parents[0]) if snapshot.parents else ""
        os.mkdir(f"{folder}/fs")
        take_root(f"{folder}/fs", below, snapshot.info.labels)
        if snapshot.info.kind is Kind.ACTIVE:
            os.mkdir(f"{folder}/work", 0o711)
            if _is_for_a_layer(snapshot.info):
                os.close(os.open(f"{folder}/{MARKER}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    def describe(self, snapshot: Record) -> list[Mount]:
        work = f"{self.folder(snapshot.id)}/work" if snapshot.info.kind is Kind.ACTIVE else ""
        lower = [self._layer(parent) for parent in snapshot.parents]
        return [show(self.content(snapshot.id), lower, work, self._options, snapshot)]

    def measure(self, snapshot: Record) -> Usage:
        own = super().measure(snapshot)
        try:
            image = os.stat(f"{self.folder(snapshot.id)}/{IMAGE}")
        except FileNotFoundError:
            return own
        return Usage(own.size + image.st_blocks * 512, own.inodes + 1)

    def seal(self, snapshot: Record) -> Usage:
        """Make the image, unless a differ has made it or there is nothing to be in it."""
        folder, files = self.folder(snapshot.id), self.content(snapshot.id)
        if self._is_applied(folder):
            if os.listdir(files):
                raise FailedPrecondition(
                    f"snapshot {snapshot.info.name!r} has a layer, and files that were written beside it: only one of the "
                    "two can be committed"
                )
        else:
            if not os.listdir(files):
                _remove_image(folder)
                usage = super().seal(snapshot)
                if _is_of_nothing(usage):
                    return usage
            self._build(folder, files)
        os.makedirs(f"{folder}/layer", mode=0o700, exist_ok=True)
        fd = os.open(f"{folder}/{IMAGE}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self._durable:
                # Changed last: what led to it comes to disk with it.
                os.fchmod(fd, 0o600)
                os.fsync(fd)
            return Usage(os.fstat(fd).st_blocks * 512, _IMAGE_AND_FOLDER)
        finally:
            os.close(fd)

    def looks_as_made(self, snapshot: Record) -> bool:
        return looks_new(self.content(snapshot.id), self._layer(snapshot.parents[0]) if snapshot.parents else "")

    def committed(self, snapshot: Record) -> None:
        folder = self.folder(snapshot.id)
        _unlink(f"{folder}/{MARKER}")
        if not _is_of_nothing(snapshot.usage):
            remove_tree(f"{folder}/fs")
            remove_tree(f"{folder}/work")

    def release(self, folder: str) -> None:
        unmount_all(f"{folder}/layer", _LET_GO)

    def close(self) -> None:
        super().close()
        unmount_recursive(str(self.folders), _LET_GO)

    def _tidy(self, snapshot: Record) -> None:
        """Do what a crash in the middle of a commit left undone."""
        folder, kind = self.folder(snapshot.id), snapshot.info.kind
        if kind is Kind.COMMITTED:
            if _is_of_nothing(snapshot.usage):
                _remove_image(folder)
            if os.path.exists(f"{folder}/fs") or os.path.exists(f"{folder}/work"):
                self.committed(snapshot)
        elif kind is Kind.ACTIVE:
            if not self._is_applied(folder):
                _unlink(f"{folder}/{IMAGE}")
            remove_tree(f"{folder}/layer")

    def _is_applied(self, folder: str) -> bool:
        """Whether the image of an active snapshot is a differ's, and no leftover of a commit."""
        return os.path.exists(f"{folder}/{MARKER}") and os.path.exists(f"{folder}/{IMAGE}")

    def _build(self, folder: str, files: str) -> None:
        with new_image(folder) as fd:
            write_folder(fd, files)
            _unlink(f"{folder}/{IMAGE}")
            keep_image(fd, folder)

    def _layer(self, id: int) -> str:
        """Where the files of a committed snapshot are: its image is mounted there, now if need be."""
        target = f"{self.folder(id)}/layer"
        try:
            if os.stat(target).st_dev != self._device:
                return target
        except FileNotFoundError:
            return self.content(id)
        with self._mounting:
            if os.stat(target).st_dev == self._device:
                mount_image(f"{self.folder(id)}/{IMAGE}", target)
        return target


def _is_for_a_layer(info: Info) -> bool:
    """Whether somebody is about to unpack a layer: who says so by the label, or by a key as containerd's clients have it."""
    return _TARGET_LABEL in info.labels or os.path.basename(info.name).startswith(_UNPACK_PREFIX)


def _is_of_nothing(usage: Usage) -> bool:
    """Whether a committed snapshot is an empty folder. An image takes more bytes than its head has; records of one may say
    that it is one inode."""
    return usage.inodes == 1 and usage.size <= layout.HEADER


def _remove_image(folder: str) -> None:
    """Remove what a commit that failed has left beside the files."""
    _unlink(f"{folder}/{IMAGE}")
    remove_tree(f"{folder}/layer")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
