"""Snapshotters that are broken on purpose, at least one for each rule of the conformance suite.

Each says in its docstring what is wrong with it, and in `breaks` which rules must notice. docs/conformance.md is made from
this by `./dev docs`.
"""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from moorage_api.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MoorageError,
    NotFound,
    Unavailable,
)
from moorage_api.linux.tree import remove_tree
from moorage_api.mounts import Mount
from moorage_api.snapshot_tree import Record
from moorage_api.snapshots import Info, Kind, Usage
from moorage_api.testing.snapshots import SnapshotterSuite
from moorage_api.types import Labels
from moorage_snapshotter.native import NativeSnapshotter
from moorage_snapshotter.overlay import OverlaySnapshotter
from moorage_snapshotter.support import default_options
from support.mutations import mutants_of

_KILLED = "killed_at_every_change"


class Sound(OverlaySnapshotter):
    """Nothing: it keeps every rule."""

    breaks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, root: Path) -> None:
        super().__init__(root, default_options(()))


class ForgetsLabels(Sound):
    """A new snapshot's labels are not kept."""

    breaks = ("prepared_snapshot_is_active",)

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        return super().prepare(key, parent)


class KeepsTheKey(Sound):
    """The key of a snapshot lives on after its commit."""

    breaks = ("committed_snapshot_replaces_its_key",)

    def commit(self, name: str, key: str, labels: Labels | None = None, *, parent: str = "") -> None:
        super().commit(name, key, labels, parent=parent)
        super().prepare(key)


class InheritsLabels(Sound):
    """A committed snapshot has the labels that it had when it was active."""

    breaks = ("labels_of_an_active_snapshot_end_with_its_commit",)

    def commit(self, name: str, key: str, labels: Labels | None = None, *, parent: str = "") -> None:
        super().commit(name, key, {**self.stat(key).labels, **(labels or {})}, parent=parent)


class ShowsEmptyViews(Sound):
    """A view shows its own, empty folder."""

    breaks = ("view_shows_its_parent", "view_is_read_only")

    def describe(self, snapshot: Record) -> list[Mount]:
        if snapshot.info.kind is Kind.VIEW:
            return [Mount("bind", self.content(snapshot.id), options=("rbind", "rw"))]
        return super().describe(snapshot)


class TakesEmptyKeys(Sound):
    """An empty key is a name like any other."""

    breaks = ("empty_key_is_refused",)

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        return super().prepare(key or " ", parent, labels)


class SharesKeys(Sound):
    """Whoever asks for a key that is taken gets what is there."""

    breaks = ("taken_key_is_refused", "one_of_many_who_prepare_a_key_succeeds")

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        with suppress(AlreadyExists):
            return super().prepare(key, parent, labels)
        return []


class IgnoresBadParents(Sound):
    """A parent that cannot be one counts as none."""

    breaks = ("missing_parent_is_not_found", "parent_must_be_committed", "a_parent_is_never_lost_to_a_race")

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        try:
            return super().prepare(key, parent, labels)
        except (NotFound, InvalidArgument):
            return super().prepare(key, "", labels)


class DropsTheLoser(Sound):
    """A commit to a name that is taken removes the active snapshot."""

    breaks = ("commit_to_a_taken_name_leaves_the_active_one",)

    def commit(self, name: str, key: str, labels: Labels | None = None, *, parent: str = "") -> None:
        try:
            super().commit(name, key, labels, parent=parent)
        except AlreadyExists:
            self.remove(key)
            raise


class CommitsAnything(Sound):
    """A commit of something that is not there, or not active, is a success."""

    breaks = ("commit_twice", "view_cannot_be_committed")

    def commit(self, name: str, key: str, labels: Labels | None = None, *, parent: str = "") -> None:
        with suppress(NotFound, FailedPrecondition):
            super().commit(name, key, labels, parent=parent)


class MountsAnything(Sound):
    """A committed snapshot has mounts, too."""

    breaks = ("committed_snapshot_has_no_mounts",)

    def mounts(self, key: str) -> list[Mount]:
        return self.describe(self._tree.get(key))


class RemovesAnything(Sound):
    """Every removal is a success."""

    breaks = ("unknown_key_is_not_found", "parent_is_removed_after_its_children")

    def remove(self, key: str) -> None:
        with suppress(MoorageError):
            super().remove(key)


class OneAtATime(Sound):
    """A call while another one is under way fails."""

    breaks = ("many_work_at_once",)

    def __init__(self, root: Path) -> None:
        self._busy = threading.Lock()
        super().__init__(root)

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        if not self._busy.acquire(blocking=False):
            raise Unavailable("busy")
        try:
            time.sleep(0.02)
            return super().update(info, fieldpaths)
        finally:
            self._busy.release()


class KeepsOldFiles(Sound):
    """A key that is used again finds the files that it had before it was removed."""

    breaks = ("removed_key_is_free_and_its_files_are_gone",)

    def remove(self, key: str) -> None:
        id = self._tree.get(key).id
        os.rename(self.content(id), self.folders.parent / f"old-{key}")
        os.mkdir(self.content(id))
        super().remove(key)

    def make(self, snapshot: Record, folder: str) -> None:
        super().make(snapshot, folder)
        old = self.folders.parent / f"old-{snapshot.info.name}"
        if old.exists():
            os.rmdir(f"{folder}/fs")
            os.rename(old, f"{folder}/fs")


class CleansTooMuch(Sound):
    """Cleaning up empties the folders of active snapshots."""

    breaks = ("cleanup_spares_what_is_in_use",)

    def cleanup(self) -> None:
        super().cleanup()
        for info in self.walk(["kind==active"]):
            content = self.content(self._tree.get(info.name).id)
            for name in os.listdir(content):
                os.unlink(f"{content}/{name}")


class CleansWhatIsNew(Sound):
    """Cleaning up asks for the ids before it lists the folders: what is made in between is garbage to it."""

    breaks = ("cleanup_beside_others_who_prepare",)

    def cleanup(self) -> None:
        known = {str(id) for id in self._tree.ids()}
        time.sleep(0.01)
        for name in set(os.listdir(self.folders)) - known:
            remove_tree(str(self.folders / name))


class BelievesUpdates(Sound):
    """An update returns what it was given."""

    breaks = ("update_changes_labels_alone",)

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        super().update(info, fieldpaths)
        return info


class UpdatesEverything(Sound):
    """An update sets all labels, whatever paths it is given, of whatever snapshot."""

    breaks = ("update_of_one_label", "update_of_anything_else_is_refused", "update_of_an_unknown_key")

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        with suppress(NotFound):
            return super().update(info)
        return info


class ListsBackwards(Sound):
    """A list goes from the last name to the first."""

    breaks = ("walk_goes_by_name_and_agrees_with_stat",)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        return reversed(list(super().walk(filters)))  # type: ignore[return-value]


class ListsAll(Sound):
    """Filters are not heeded."""

    breaks = ("walk_with_filters", "walk_with_a_malformed_filter")

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        return super().walk()


class ChangesItsMind(Sound):
    """The order of mount options is another one each time."""

    breaks = ("mounts_are_the_same_each_time",)

    def __init__(self, root: Path) -> None:
        self._turns: Counter[int] = Counter()
        super().__init__(root)

    def describe(self, snapshot: Record) -> list[Mount]:
        self._turns[snapshot.id] += 1
        [mount] = super().describe(snapshot)
        return [replace(mount, options=mount.options[:: 1 if self._turns[snapshot.id] % 2 else -1])]


class StartsAfresh(Sound):
    """Active snapshots do not survive a restart."""

    breaks = ("everything_is_there_after_a_restart",)

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        for info in list(self.walk(["kind==active"])):
            self.remove(info.name)


class ClosesOnce(Sound):
    """Closing it a second time is an error."""

    breaks = ("closed_twice",)

    def close(self) -> None:
        if getattr(self, "_closed", False):
            self._closed = False
            raise FailedPrecondition("closed already")
        self._closed = True
        super().close()


class CountsLengths(Sound):
    """Usage is the sum of the files' lengths."""

    breaks = ("usage_is_what_du_counts",)

    def usage(self, key: str) -> Usage:
        content = Path(self.content(self._tree.get(key).id))
        return Usage(sum(path.lstat().st_size for path in content.rglob("*")), super().usage(key).inodes)


class CountsParents(Sound):
    """Usage includes that of the parents."""

    breaks = ("usage_of_a_child_is_its_own",)

    def usage(self, key: str) -> Usage:
        own, parent = super().usage(key), self.stat(key).parent
        below = self.usage(parent) if parent else Usage(0, 0)
        return Usage(own.size + below.size, own.inodes + below.inodes)


class ShowsOneLayer(Sound):
    """Only the nearest parent is shown."""

    breaks = ("layers_add_up", "tall_image")

    def describe(self, snapshot: Record) -> list[Mount]:
        return super().describe(replace(snapshot, parents=snapshot.parents[:1]))


class StacksUpsideDown(Sound):
    """The lowest layer covers the others."""

    breaks = ("changed_file", "file_in_place_of_a_folder_and_back")

    def describe(self, snapshot: Record) -> list[Mount]:
        return super().describe(replace(snapshot, parents=snapshot.parents[::-1]))


class LosesDeletions(Sound):
    """A commit drops the marks of what was deleted."""

    breaks = ("deleted_file_stays_deleted", "folder_deleted_and_made_again_is_empty", "renamed_file")

    def commit(self, name: str, key: str, labels: Labels | None = None, *, parent: str = "") -> None:
        content = Path(self.content(self._tree.get(key).id))
        for path in content.rglob("*"):
            status = path.lstat()
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                path.unlink()
            elif "trusted.overlay.opaque" in os.listxattr(path, follow_symlinks=False):
                os.removexattr(path, "trusted.overlay.opaque")
        super().commit(name, key, labels, parent=parent)


class LosesModes(Sound):
    """A commit gives every file the mode 0644."""

    breaks = ("changed_attributes_alone",)

    def commit(self, name: str, key: str, labels: Labels | None = None, *, parent: str = "") -> None:
        for path in Path(self.content(self._tree.get(key).id)).rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(0o644)
        super().commit(name, key, labels, parent=parent)


class LosesTheRoot(Sound):
    """The root of a snapshot does not look like that of its parent."""

    breaks = ("the_root_keeps_its_attributes",)

    def make(self, snapshot: Record, folder: str) -> None:
        super().make(replace(snapshot, parents=()), folder)


class WritesThrough(Sound):
    """An active snapshot is its parent, writable."""

    breaks = ("two_children_of_a_parent_do_not_meet",)

    def describe(self, snapshot: Record) -> list[Mount]:
        if snapshot.parents and snapshot.info.kind is Kind.ACTIVE:
            return [Mount("bind", self.content(snapshot.parents[0]), options=("rbind", "rw"))]
        return super().describe(snapshot)


class _Copying(NativeSnapshotter):
    breaks: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[tuple[str, ...]] = ()

    def make(self, snapshot: Record, folder: str) -> None:
        os.chmod(folder, 0o755)
        if snapshot.parents and snapshot.info.kind is Kind.ACTIVE:
            source = f"{self.folder(snapshot.parents[0])}/."
            subprocess.run(["cp", *self.flags, source, folder], check=True, capture_output=True)


class BreaksHardLinks(_Copying):
    """Copies forget which names are one file."""

    breaks = ("hard_links_of_one_layer",)
    flags = ("-a", "--no-preserve=links")


class LosesAttributes(_Copying):
    """Copies lose owners, modes, times and extended attributes."""

    breaks = ("owners_modes_and_times",)
    flags = ("-dR", "--preserve=links")


class CopiesOneLevel(_Copying):
    """Copies hold folders, and nothing that is in them."""

    breaks = ("renamed_folder",)

    def make(self, snapshot: Record, folder: str) -> None:
        os.chmod(folder, 0o755)
        if snapshot.parents:
            for name in os.listdir(self.folder(snapshot.parents[0])):
                os.mkdir(f"{folder}/{name}")


class RecordsFirst(Sound):
    """The record is written before the folder is made: a crash in between leaves a snapshot without files."""

    breaks = (f"{_KILLED}[prepare]",)

    def _make(self, record: Record) -> None:
        """Nothing yet."""

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        mounts = super().prepare(key, parent, labels)
        super()._make(self._tree.get(key))
        return mounts


class CommitsInTwoSteps(Sound):
    """A commit removes the old record, then writes the new one: a crash in between loses the snapshot."""

    breaks = (f"{_KILLED}[commit]",)

    def commit(self, name: str, key: str, labels: Labels | None = None, *, parent: str = "") -> None:
        super().commit("half-way", key, {}, parent=parent)
        super().prepare("again", "half-way")
        super().commit(name, "again", labels)


class UpdatesInTwoSteps(Sound):
    """An update removes all labels, then sets the new ones."""

    breaks = (f"{_KILLED}[update]",)

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        super().update(replace(info, labels={"old": "1"}))
        return super().update(info, fieldpaths)


class RemovesFilesFirst(Sound):
    """A removal deletes the files before the record: a crash in between leaves a snapshot without them."""

    breaks = (f"{_KILLED}[remove-active]",)

    def remove(self, key: str) -> None:
        remove_tree(self.folder(self._tree.get(key).id))
        super().remove(key)


class NeverCleans(Sound):
    """What a crash left behind stays."""

    breaks = (f"{_KILLED}[prepare-on-a-parent]",)

    def cleanup(self) -> None:
        """Nothing."""


def broken() -> list[type]:
    """All of them, in the order in which they stand here."""
    return mutants_of(globals())


def suite(cls: type) -> type:
    """The suite on one of them."""
    members = {"open_snapshotter": lambda self, folder: cls(folder), "holds_only_changes": not hasattr(cls, "flags")}
    return type(f"Test{cls.__name__}", (SnapshotterSuite,), members)
