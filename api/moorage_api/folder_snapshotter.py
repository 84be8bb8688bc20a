"""A snapshotter that keeps each snapshot in a folder of its own: all but what is in it.

For authors of snapshotters. Derive from `FolderSnapshotter`, and say what a new snapshot's folder holds (`make`), how
it is mounted (`describe`), and which part of it is the snapshot's own files (`content`). The rest is here: the rules of
`moorage_api.snapshots`, the order of writing that survives a power cut, and the cleaning up. Where a committed snapshot is
kept in another form than an active one, say how it gets it (`seal`, `committed`), and what has to end before its folder is
removed (`release`).

Layout below the root, as in containerd: `metadata.db` (`moorage_api.snapshot_tree`), `snapshots/ID/`.

The order of writing: a new folder is made beside its place and renamed, then its record is written; a committed snapshot's
files are synced, then its record is written; a removed snapshot's record goes first, then its folder. So whatever a crash
leaves behind is a folder without a record, which `cleanup` removes; it also runs at the start. A power cut may leave a record
of an active snapshot without its folder, since that is not synced: nothing in it was promised to anybody, and the start makes
it again. So it does with a committed snapshot that has nothing in it, where a snapshotter can (`makes_again`).
"""

from __future__ import annotations

import errno
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from moorage_api.errors import FailedPrecondition, InvalidArgument, MoorageError, NotFound, ResourceExhausted
from moorage_api.linux.sync import SharedSync, sync_folder
from moorage_api.linux.tree import disk_usage, remove_tree
from moorage_api.mounts import Mount
from moorage_api.snapshot_tree import Record, SnapshotTree
from moorage_api.snapshots import Info, Kind, Usage
from moorage_api.types import Labels

logger = logging.getLogger(__name__)

_TRIES_TO_MEASURE = 8
_NEW = ".new"


class FolderSnapshotter(ABC):
    """A `Snapshotter` over folders below `root`.

    `durable` false leaves it to the kernel when a committed snapshot's files reach the disk: a power cut may then lose
    them though their record is there. `remove_at_once` false leaves the folders of removed snapshots to `cleanup`.
    """

    rebases = False
    """Whether a folder holds its snapshot's own files only: then a commit can give it a parent."""
    makes_again = False
    """Whether a committed snapshot with nothing in it, which a power cut has taken, is made again at the start: see
    `looks_as_made`."""
    prompt = False
    """Whether `describe` neither waits nor asks the disk (`moorage_api.snapshots.Prompt`)."""

    def __init__(self, root: Path, *, durable: bool = True, remove_at_once: bool = True) -> None:
        self.folders = root / "snapshots"
        self.folders.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folders = str(self.folders)
        self._durable = durable
        self._remove_at_once = remove_at_once
        self._tree = SnapshotTree(root / "metadata.db")
        self._sync = SharedSync(str(self.folders))
        self.cleanup()
        self._make_what_is_missing()

    @abstractmethod
    def make(self, snapshot: Record, folder: str) -> None:
        """Fill the new, empty folder of an active snapshot or a view. On `OSError` the folder is removed.

        After a power cut `__init__` calls it, too: what it needs of a derived class has to be there before.
        """

    @abstractmethod
    def describe(self, snapshot: Record) -> list[Mount]:
        """The mounts of an active snapshot or a view; nothing but its record decides them."""

    def content(self, id: int) -> str:
        """The folder with the snapshot's own files, which is measured and synced: here the whole of it."""
        return self.folder(id)

    def measure(self, snapshot: Record) -> Usage:
        """What an active snapshot holds now."""
        return measure(self.content(snapshot.id))

    def seal(self, snapshot: Record) -> Usage:
        """Bring the files of a snapshot about to be committed to disk, and measure them. On `OSError` it stays active.

        After a crash in here, or before the record is written, it is still active: whatever was added is to be of no
        effect then.
        """
        content = self.content(snapshot.id)
        if self._durable and not _is_empty(content):
            # Two that wait for one another otherwise: the disk, and the walk through 100,000 files.
            with ThreadPoolExecutor(1, "sync") as beside:
                syncing = beside.submit(self._sync)
                usage = self.measure(snapshot)
                syncing.result()
            return usage
        usage = self.measure(snapshot)
        if self._durable and not self.looks_as_made(snapshot):
            self._sync_empty(content)
        return usage

    def looks_as_made(self, snapshot: Record) -> bool:
        """Whether `make`, called after a power cut for the committed snapshot, without its labels, would make just what this
        one with nothing in it is. Then it is not brought to disk."""
        return False

    def committed(self, snapshot: Record) -> None:
        """Called when the commit is recorded. A crash may come first: what is done here must be done at the start, too."""
        return

    def release(self, folder: str) -> None:
        """Called before the folder of a snapshot that is no more is removed; again, where that failed."""
        return

    def folder(self, id: int) -> str:
        """The folder of the snapshot `id`, of any kind."""
        return f"{self._folders}/{id}"

    def record(self, key: str) -> Record:
        """The tree's record of a snapshot of any kind, with its id and its ancestors'. `NotFound`."""
        return self._tree.get(key)

    def stat(self, key: str) -> Info:
        return self._tree.get(key).info

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        return self._tree.update(info, fieldpaths)

    def usage(self, key: str) -> Usage:
        record = self._tree.get(key)
        if record.info.kind is not Kind.ACTIVE:
            return record.usage
        with _files_of(key):
            return self.measure(record)

    def mounts(self, key: str) -> list[Mount]:
        record = self._tree.get(key)
        if record.info.kind is Kind.COMMITTED:
            raise FailedPrecondition(f"snapshot {key!r} is committed: only active ones and views have mounts")
        return self.describe(record)

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        return self._create(Kind.ACTIVE, key, parent, labels)

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        return self._create(Kind.VIEW, key, parent, labels)

    def commit(self, name: str, key: str, labels: Labels | None = None, *, parent: str = "") -> None:
        if parent and not self.rebases:
            raise InvalidArgument(f"snapshot {key!r} was made without the files of {parent!r}: it cannot stand on it")
        self.committed(self._tree.commit(name, key, labels, self._seal, parent=parent))

    def remove(self, key: str) -> None:
        record = self._tree.remove(key)
        if self._remove_at_once:
            self._discard(self.folder(record.id))

    def remove_all(self, keys: Sequence[str]) -> list[str]:
        """See `moorage_api.snapshots.RemovesMany`. None where a derived class removes in a way of its own."""
        if type(self).remove is not FolderSnapshotter.remove:
            return []
        gone = self._tree.remove_all(keys)
        if self._remove_at_once:
            for record in gone:
                self._discard(self.folder(record.id))
        return [record.info.name for record in gone]

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        return self._tree.walk(filters)

    def cleanup(self) -> None:
        found = os.listdir(self.folders)
        # Asked for after the listing: a folder made since then is not in it, one made before has its id here.
        known, making = self._tree.ids(), self._tree.making()
        spared = {str(id) for id in known} | {f"{id}{_NEW}" for id in making}
        for name in found:
            if name not in spared:
                self._discard(str(self.folders / name))

    def close(self) -> None:
        self._tree.close()
        self._sync.close()

    def _create(self, kind: Kind, key: str, parent: str, labels: Labels | None) -> list[Mount]:
        made: list[str] = []

        def make(record: Record) -> None:
            self._make(record)
            made.append(self.folder(record.id))

        try:
            return self.describe(self._tree.create(kind, key, parent, labels, make))
        except BaseException:
            for folder in made:
                self._discard(folder)
            raise

    def _make(self, record: Record) -> None:
        folder = self.folder(record.id)
        new = f"{folder}{_NEW}"
        with _files_of(record.info.name):
            try:
                os.mkdir(new, 0o700)
            except FileExistsError:
                # A crash may have left a folder behind that cleanup could not remove then.
                remove_tree(new)
                os.mkdir(new, 0o700)
            try:
                self.make(record, new)
                self._rename(new, folder)
            except BaseException:
                self._discard(new)
                raise

    def _sync_empty(self, content: str) -> None:
        """Bring a folder with nothing in it to disk, and all that led to it. Changed last, it comes last, and whatever was
        done before it comes with it: file systems with a journal write changes in their order."""
        os.chmod(content, os.stat(content).st_mode & 0o7777)
        sync_folder(content)

    def _rename(self, new: str, folder: str) -> None:
        """Put a new folder into its place, at once and as a whole."""
        try:
            os.rename(new, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                raise
            self.release(folder)
            remove_tree(folder)
            os.rename(new, folder)

    def _make_what_is_missing(self) -> None:
        """Make the folders that a power cut has taken, of snapshots that hold nothing, or may; parents first."""
        there = set(os.listdir(self.folders))
        for record in sorted(self._tree.records(), key=lambda record: len(record.parents)):
            committed = record.info.kind is Kind.COMMITTED
            if str(record.id) in there or (committed and not (self.makes_again and record.usage.inodes == 1)):
                continue
            if not committed:
                logger.warning(
                    "snapshot %r has no files after a crash of this machine: it begins anew", record.info.name
                )
            try:
                self._make(replace(record, info=replace(record.info, labels={})) if committed else record)
            except MoorageError:
                logger.exception("snapshot %r cannot begin anew: it can only be removed", record.info.name)

    def _seal(self, record: Record) -> Usage:
        with _files_of(record.info.name):
            return self.seal(record)

    def _discard(self, folder: str) -> None:
        """Remove a folder that belongs to no record. A failure is logged: the next `cleanup` tries again."""
        try:
            self.release(folder)
            remove_tree(folder)
        except OSError as error:
            logger.warning("left over until the next cleanup: %s: %s", folder, error)


def _is_empty(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def measure(folder: str) -> Usage:
    """The usage of a folder in which a container may be moving folders about. One with nothing in it is not walked."""
    if _is_empty(folder):
        return Usage(os.stat(folder).st_blocks * 512, 1)
    for _ in range(_TRIES_TO_MEASURE - 1):
        try:
            return Usage(*disk_usage(folder))
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return Usage(*disk_usage(folder))


@contextmanager
def _files_of(key: str) -> Iterator[None]:
    """Failures of the file system as errors of the contract."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"snapshot {key!r}: {error}") from error
    except OSError as error:
        kind = ResourceExhausted if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE) else MoorageError
        raise kind(f"snapshot {key!r}: {error}") from error
