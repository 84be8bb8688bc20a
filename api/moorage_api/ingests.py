"""The writing of blobs, for authors of content stores: ingests are files, resumed where they were left, until they are blobs.

A store says which blobs it has, and takes a file whose bytes are whole, verified and on disk (`Blobs`). The rules of ingests
in `moorage_api.content` are kept here: one writer each, digests, what was announced, and what a crash leaves.

    class MyStore:
        def __init__(self, root):
            self._ingests = Ingests(root / "ingests", self)
            self.writer, self.abort = self._ingests.writer, self._ingests.abort
            self.status, self.statuses = self._ingests.status, self._ingests.statuses
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec

from moorage_api import adaptors, filters
from moorage_api.closing import Closing
from moorage_api.content import Info, IngestStatus
from moorage_api.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MoorageError,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)
from moorage_api.linux.files import write_at
from moorage_api.types import Labels, check_digest

_CHUNK = 1 << 20
_ABOUT, _DATA = "about.json", "data"


class Blobs(Protocol):
    """The store's own part."""

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""

    def keep(self, path: Path, info: Info) -> None:
        """Make the bytes of the file the blob `info.digest`; it is durable when this returns. The file may be linked or
        moved away. `AlreadyExists` where somebody else was first."""


class Ingests:
    """Ingests below the folder `root`. Thread-safe. What `__init__` finds that is none, it removes."""

    def __init__(self, root: Path, blobs: Blobs) -> None:
        self._root = root
        self._blobs = blobs
        self._lock = threading.Lock()
        self._open: set[str] = set()
        root.mkdir(parents=True, exist_ok=True)
        for folder in root.iterdir():
            try:
                _load(folder)
            except NotFound:
                shutil.rmtree(folder)

    def status(self, ref: str) -> IngestStatus:
        """As `ContentStore.status`."""
        try:
            return _load(self._folder(ref))
        except NotFound:
            raise NotFound(f"ingest {ref!r} does not exist") from None

    def statuses(self, expressions: Sequence[str] = ()) -> list[IngestStatus]:
        """As `ContentStore.statuses`."""
        accepted = filters.parse(expressions)
        found = []
        for folder in self._root.iterdir():
            with suppress(NotFound):  # a blob by now
                found.append(_load(folder))
        chosen = (status for status in found if accepted.matches(adaptors.ingest_status(status)))
        return sorted(chosen, key=lambda status: status.ref)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> IngestWriter:
        """As `ContentStore.writer`."""
        if not ref or total < 0:
            raise InvalidArgument("an ingest needs a ref, and a total that is not negative")
        if expected and self._blobs.has(check_digest(expected)):
            raise AlreadyExists(f"blob {expected} exists already")
        folder = self._folder(ref)
        self._claim(ref)
        try:
            with _disk_errors(ref):
                if not (folder / _ABOUT).exists():
                    _make(folder, IngestStatus(ref, 0, total, expected, time.time_ns()))
                return IngestWriter(self, folder, _load(folder))
        except BaseException:
            self.release(ref)
            raise

    def abort(self, ref: str) -> None:
        """As `ContentStore.abort`."""
        self.status(ref)
        self._claim(ref)
        try:
            _remove(self._folder(ref))
        finally:
            self.release(ref)

    def release(self, ref: str) -> None:
        """The ingest has no writer any more; for the writer."""
        with self._lock:
            self._open.discard(ref)

    def publish(self, folder: Path, info: Info) -> None:
        """Make an ingest a blob; for the writer."""
        try:
            self._blobs.keep(folder / _DATA, info)
        except AlreadyExists:
            _remove(folder)
            raise
        _remove(folder)

    def _claim(self, ref: str) -> None:
        with self._lock:
            if ref in self._open:
                raise Unavailable(f"ingest {ref!r} has a writer")
            self._open.add(ref)

    def _folder(self, ref: str) -> Path:
        return self._root / hashlib.sha256(ref.encode("utf-8", "surrogateescape")).hexdigest()


class IngestWriter(Closing):
    """`moorage_api.content.Writer`, of one ingest. Not for several threads at once."""

    def __init__(self, ingests: Ingests, folder: Path, status: IngestStatus) -> None:
        self._ingests = ingests
        self._folder = folder
        self._status = status
        self._fd = os.open(folder / _DATA, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._hash = self._read("sha256")

    @property
    def path(self) -> Path:
        """The file that it appends to."""
        return self._folder / _DATA

    def status(self) -> IngestStatus:
        return self._status

    def digest(self) -> str:
        return f"{self._hash.name}:{self._hash.hexdigest()}"

    def write(self, data: bytes | memoryview) -> int:
        self._check()
        before = self._status.offset
        try:
            with _disk_errors(self._status.ref):
                write_at(self._fd, data, before)
        except MoorageError:
            os.ftruncate(self._fd, before)
            raise
        self._hash.update(data)
        self._moved(before + len(data))
        return len(data)

    def truncate(self, size: int) -> None:
        self._check()
        if size > self._status.offset:
            raise OutOfRange(f"ingest {self._status.ref!r} has {self._status.offset} bytes, not {size}")
        os.ftruncate(self._fd, size)
        self._hash = self._read("sha256")
        self._moved(size)

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Info:
        self._check()
        try:
            algorithm = check_digest(expected).partition(":")[0] if expected else "sha256"
            if algorithm != self._hash.name:
                self._hash = self._read(algorithm)
            found, offset = self.digest(), self._status.offset
            if (size and size != offset) or (expected and expected != found):
                wanted = " ".join(str(part) for part in (size or "", expected) if part)
                raise FailedPrecondition(f"ingest {self._status.ref!r}: {offset} bytes, {found}: announced {wanted}")
            with _disk_errors(self._status.ref):
                os.fsync(self._fd)
            now = time.time_ns()
            info = Info(found, offset, now, now, labels or {})
            self._ingests.publish(self._folder, info)
            return info
        finally:
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._ingests.release(self._status.ref)

    def _read(self, algorithm: str) -> hashlib._Hash:
        """The hash of what is written so far."""
        made, offset = hashlib.new(algorithm), 0
        while data := os.pread(self._fd, _CHUNK, offset):
            made.update(data)
            offset += len(data)
        return made

    def _moved(self, offset: int) -> None:
        self._status = replace(self._status, offset=offset, updated_at=time.time_ns())

    def _check(self) -> None:
        if self._fd < 0:
            raise FailedPrecondition(f"ingest {self._status.ref!r}: its writer is closed")


class FileReader(Closing):
    """`moorage_api.content.BlobReader` of a file. `FileNotFoundError`."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.path: Path | None = path
        self.size = os.fstat(self._fd).st_size

    def pread(self, length: int, offset: int) -> bytes:
        if self._fd < 0:
            raise FailedPrecondition("the reader is closed")
        if offset > self.size:
            raise OutOfRange(f"read at {offset} of {self.size} bytes")
        return os.pread(self._fd, length, offset)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _make(folder: Path, status: IngestStatus) -> None:
    """Make an ingest's folder. What is about it comes last and at once: a folder without it is no ingest."""
    folder.mkdir(exist_ok=True)
    (folder / _DATA).touch()
    new = folder / f"{_ABOUT}.new"
    new.write_bytes(msgspec.json.encode(status))
    new.rename(folder / _ABOUT)


def _load(folder: Path) -> IngestStatus:
    try:
        about = msgspec.json.decode((folder / _ABOUT).read_bytes(), type=IngestStatus)
        found = os.stat(folder / _DATA)
    except (FileNotFoundError, msgspec.MsgspecError) as error:
        raise NotFound(f"no ingest: {error}") from error
    return replace(about, offset=found.st_size, updated_at=max(found.st_mtime_ns, about.started_at))


def _remove(folder: Path) -> None:
    """Remove an ingest: first what makes it one."""
    (folder / _ABOUT).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _disk_errors(ref: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = ResourceExhausted if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE) else MoorageError
        raise kind(f"ingest {ref!r}: {error}") from error
