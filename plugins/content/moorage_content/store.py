"""The store: what is where, who writes, and the order in which an ingest becomes a blob."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from moorage_api import adaptors
from moorage_api.content import BlobReader, Info, IngestStatus, Writer
from moorage_api.errors import (
    AlreadyExists,
    InvalidArgument,
    MoorageError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from moorage_api.filters import parse
from moorage_api.linux.sync import sync_folder
from moorage_api.types import check_digest
from moorage_content.groupsync import GroupSync
from moorage_content.holes import keeps_holes
from moorage_content.layout import Ingest, Layout, ingest_at
from moorage_content.oserrors import translated, translating
from moorage_content.reader import LocalReader
from moorage_content.writer import DEFAULT_ALGORITHM, LocalWriter

_log = logging.getLogger(__name__)
_ALGORITHMS = ("sha256", "sha384", "sha512")


class LocalContentStore:
    """Blobs and ingests as files under `root`, which belongs to this one process.

    An ingest is resumable at any moment: its file is all there is to it. A blob appears by a rename, after its bytes
    are verified and synced, and counts when the folder is synced too; so a crash leaves ingests and whole blobs only.
    """

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)
        self._locks: dict[str, float] = {}
        self._locks_guard = threading.Lock()
        self._publishing = threading.Lock()
        self._syncs: dict[str, GroupSync] = {}
        with translating(f"open content store {root}"):
            for algorithm in _ALGORITHMS:
                (self._layout.blobs / algorithm).mkdir(parents=True, exist_ok=True, mode=0o700)
                self._syncs[algorithm] = GroupSync(str(self._layout.blobs / algorithm))
            self._layout.ingests.mkdir(exist_ok=True, mode=0o700)
            for folder in (self._layout.blobs, self._layout.root):
                sync_folder(str(folder))
            self._remove_torn_ingests()
            self._takes_ahead = keeps_holes(str(root))

    @property
    def root(self) -> Path:
        return self._layout.root

    # Blobs

    def info(self, digest: str) -> Info:
        return _info(digest, self._layout.blob(digest))

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        """This store keeps no labels: `Unimplemented`. The metadata layer has them for each namespace."""
        self.info(info.digest)
        raise Unimplemented(f"the local content store keeps no labels (content {info.digest})")

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        accepted = parse(filters)
        return (info for info in self._all() if accepted.everything or accepted.matches(adaptors.content_info(info)))

    def _all(self) -> Iterator[Info]:
        for algorithm in _ALGORITHMS:
            folder = self._layout.blobs / algorithm
            with translating(f"list {folder}"):
                names = sorted(os.listdir(folder))
            for name in names:
                try:
                    digest = check_digest(f"{algorithm}:{name}")
                    info = _info(digest, f"{folder}/{name}")
                except InvalidArgument:
                    _log.warning("%s/%s is not a blob: ignored", folder, name)
                except NotFound:
                    continue  # deleted since it was listed
                else:
                    yield info

    def delete(self, digest: str) -> None:
        path = self._layout.blob(digest)
        try:
            os.unlink(path)
        except FileNotFoundError:
            raise _no_blob(digest) from None
        except OSError as error:
            raise translated(error, f"delete content {digest}") from error

    def open(self, digest: str) -> BlobReader:
        path = self._layout.blob(digest)
        try:
            return LocalReader(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
        except FileNotFoundError:
            raise _no_blob(digest) from None
        except OSError as error:
            raise translated(error, f"open content {digest}") from error

    # Ingests

    def status(self, ref: str) -> IngestStatus:
        status = self._layout.ingest(ref).status()
        if status is None:
            raise _no_ingest(ref)
        return status

    def statuses(self, filters: Sequence[str] = ()) -> list[IngestStatus]:
        accepted = parse(filters)
        with translating(f"list {self._layout.ingests}"):
            names = os.listdir(self._layout.ingests)
        ingests = (ingest_at(f"{self._layout.ingests}/{name}") for name in names)
        found = (ingest.status() for ingest in ingests if ingest is not None)
        matching = [status for status in found if status and accepted.matches(adaptors.ingest_status(status))]
        return sorted(matching, key=lambda status: status.ref)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Writer:
        ingest = self._layout.ingest(ref)
        if total < 0:
            raise InvalidArgument(f"negative total {total} for ingest {ref!r}")
        if expected and os.path.exists(self._layout.blob(expected)):
            raise AlreadyExists(f"content {expected} already exists")
        self._lock(ref)
        try:
            with translating(f"open ingest {ref!r}"):
                return self._open_ingest(ingest, total, expected)
        except BaseException:
            self._unlock(ref)
            raise

    def _open_ingest(self, ingest: Ingest, total: int, expected: str) -> Writer:
        status = ingest.status()
        resumed = status is not None and _resumable(status, total, expected)
        self._check_room(ingest.ref, total - (status.offset if status and resumed else 0))
        if status is None or not resumed:
            ingest.create(total, expected)
            now = time.time_ns()
            status = IngestStatus(ingest.ref, 0, total, expected, now, now)
        # A commit that did not succeed may have made the file read-only; root may write it all the same.
        algorithm = (expected or status.expected or DEFAULT_ALGORITHM).partition(":")[0]
        release = partial(self._unlock, ingest.ref)
        return LocalWriter(self, ingest, status, algorithm, release, ahead=self._takes_ahead)

    def _check_room(self, ref: str, size: int) -> None:
        """`ResourceExhausted` for an ingest that cannot fit as it is announced: better now than when the disk is full."""
        if size <= 0:
            return
        found = os.statvfs(self._layout.ingests)
        free = found.f_bfree * found.f_frsize
        if size > free:
            raise ResourceExhausted(f"ingest {ref!r} needs {size} bytes, {free} are free on the content's file system")

    def abort(self, ref: str) -> None:
        ingest = self._layout.ingest(ref)
        self._lock(ref)
        try:
            if ingest.status() is None:
                raise _no_ingest(ref)
            with translating(f"abort ingest {ref!r}"):
                ingest.remove()
        finally:
            self._unlock(ref)

    def publish(self, ingest: Ingest, digest: str) -> None:
        """Called by the ingest's writer, who holds its lock and has synced its data."""
        path = self._layout.blob(digest)
        with translating(f"publish content {digest}"):
            with self._publishing:
                exists = os.path.exists(path)
                if not exists:
                    os.rename(ingest.data, path)
            # Also where it exists: whoever put it there may not have synced the folder yet.
            self._syncs[digest.partition(":")[0]].sync()
            ingest.remove()
        if exists:
            raise AlreadyExists(f"content {digest} already exists")

    def _remove_torn_ingests(self) -> None:
        """Remove what a crash left of ingests that were being made or removed."""
        for name in os.listdir(self._layout.ingests):
            path = f"{self._layout.ingests}/{name}"
            ingest = ingest_at(path)
            if ingest is None or ingest.status() is None:
                Ingest(path, "").remove()

    def _lock(self, ref: str) -> None:
        with self._locks_guard:
            since = self._locks.get(ref)
            if since is not None:
                age = time.monotonic() - since
                raise Unavailable(f"ingest {ref!r} is open: another writer has had it for {age:.1f} s")
            self._locks[ref] = time.monotonic()

    def _unlock(self, ref: str) -> None:
        with self._locks_guard:
            del self._locks[ref]


def _info(digest: str, path: str) -> Info:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        raise _no_blob(digest) from None
    except OSError as error:
        raise translated(error, f"stat content {digest}") from error
    return Info(digest=digest, size=stat.st_size, created_at=stat.st_mtime_ns, updated_at=stat.st_mtime_ns)


def _resumable(status: IngestStatus, total: int, expected: str) -> bool:
    """False when what is announced now contradicts what was announced before: then the bytes are another blob's."""
    return (not total or not status.total or total == status.total) and (
        not expected or not status.expected or expected == status.expected
    )


def _no_blob(digest: str) -> MoorageError:
    return NotFound(f"content {digest} does not exist")


def _no_ingest(ref: str) -> MoorageError:
    return NotFound(f"ingest {ref!r} does not exist")
