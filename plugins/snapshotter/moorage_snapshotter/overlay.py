"""The overlayfs snapshotter: a layer is a folder, an active snapshot is an overlay of its own folder on its parents'.

Layout as in containerd: `snapshots/ID/fs` holds the files, with whiteouts as overlayfs has them; `snapshots/ID/work`
is overlayfs' own, in active snapshots only.

A snapshot with the labels of an id mapping is for a user namespace: its own folder belongs to the root of that, and its
mount asks for ID-mapped lower layers (`moorage_api.linux.idmapped`), so that nothing of an image is copied or changed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from moorage_api import idmap
from moorage_api.folder_snapshotter import FolderSnapshotter
from moorage_api.linux import idmapped
from moorage_api.mounts import Mount
from moorage_api.snapshot_tree import Record
from moorage_api.snapshots import Kind
from moorage_api.types import Labels

# The root of a file system with nothing in it: as `_attributes` has it.
_NEW_ROOT = (0, 0, 0o755)


class OverlaySnapshotter(FolderSnapshotter):
    """Snapshots as overlayfs mounts, with `options` on each overlay (not on bind mounts)."""

    rebases = True
    makes_again = True
    prompt = True

    def __init__(
        self, root: Path, options: Sequence[str] = (), *, durable: bool = True, remove_at_once: bool = True
    ) -> None:
        self._options = tuple(options)
        super().__init__(root, durable=durable, remove_at_once=remove_at_once)

    def content(self, id: int) -> str:
        return f"{self.folder(id)}/fs"

    def make(self, snapshot: Record, folder: str) -> None:
        upper = f"{folder}/fs"
        os.mkdir(upper)
        if snapshot.info.kind is Kind.ACTIVE:
            os.mkdir(f"{folder}/work", 0o711)
        take_root(upper, self.content(snapshot.parents[0]) if snapshot.parents else "", snapshot.info.labels)

    def looks_as_made(self, snapshot: Record) -> bool:
        return looks_new(self.content(snapshot.id), self.content(snapshot.parents[0]) if snapshot.parents else "")

    def describe(self, snapshot: Record) -> list[Mount]:
        active, own = snapshot.info.kind is Kind.ACTIVE, self.content(snapshot.id)
        lower = [self.content(parent) for parent in snapshot.parents]
        return [show(own, lower, f"{self.folder(snapshot.id)}/work" if active else "", self._options, snapshot)]


def take_root(upper: str, below: str, labels: Labels) -> None:
    """Have the folder `upper` look like the root of the layer below, at the folder `below`, or of a new file system where
    that is empty: the root of an overlay is its uppermost folder. With the labels of an id mapping it belongs to whom the
    owner is on the host. `InvalidArgument` for a malformed one."""
    uid, gid, mode = _attributes(below) if below else _NEW_ROOT
    if idmap.UID_LABEL in labels:
        uid = idmap.parse(labels[idmap.UID_LABEL]).to_host(uid)
    if idmap.GID_LABEL in labels:
        gid = idmap.parse(labels[idmap.GID_LABEL]).to_host(gid)
    if uid or gid:
        os.chown(upper, uid, gid)
    os.chmod(upper, mode)


def looks_new(upper: str, below: str) -> bool:
    """Whether the folder `upper`, with nothing in it, is as `take_root` leaves it without labels."""
    return _attributes(upper) == (_attributes(below) if below else _NEW_ROOT) and not os.listxattr(upper)


def _attributes(folder: str) -> tuple[int, int, int]:
    """Owner, group and mode."""
    found = os.stat(folder)
    return found.st_uid, found.st_gid, found.st_mode & 0o7777


def show(own: str, lower: Sequence[str], work: str, options: Sequence[str], snapshot: Record) -> Mount:
    """The mount of a snapshot with files of its own in the folder `own`, on the layers `lower`, the uppermost first;
    writable where it has the folder `work` for overlayfs."""
    if not lower:
        return _bind(own, bool(work))
    mapping = idmapped.options(snapshot.info.labels)
    if work:
        return _overlay(lower, (*options, *mapping), own, work)
    # overlayfs wants two lower folders when there is no upper one.
    return _bind(lower[0], False, mapping) if len(lower) == 1 else _overlay(lower, (*options, *mapping))


def _overlay(lower: Sequence[str], options: Sequence[str], upper: str = "", work: str = "") -> Mount:
    """An overlay of the folders `lower`, the uppermost first; writable where it has an upper folder."""
    writable = (f"workdir={work}", f"upperdir={upper}") if upper else ()
    return Mount("overlay", "overlay", options=(*writable, f"lowerdir={':'.join(lower)}", *options))


def _bind(source: str, writable: bool, options: Sequence[str] = ()) -> Mount:
    """The folder `source` as it is."""
    return Mount("bind", source, options=("rw" if writable else "ro", "rbind", *options))
