"""Writing an ingest and making it a blob."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from moorage_api.closing import Closing
from moorage_api.content import Info, IngestStatus
from moorage_api.errors import FailedPrecondition, OutOfRange
from moorage_api.types import Labels, check_digest
from moorage_content.layout import Ingest
from moorage_content.oserrors import translating

if TYPE_CHECKING:
    from hashlib import _Hash

_CHUNK = 1 << 20
DEFAULT_ALGORITHM = "sha256"


class Publisher(Protocol):
    """The store, as its writers see it."""

    def publish(self, ingest: Ingest, digest: str) -> None:
        """Make the synced data of `ingest` the blob `digest`, durably, and remove the ingest. `AlreadyExists`."""


class LocalWriter(Closing):
    """The one writer of an ingest, at its end. Not for several threads at once.

    Bytes go to the file as they come, and the digest is kept along; so resuming costs reading the file once.
    """

    def __init__(
        self, store: Publisher, ingest: Ingest, status: IngestStatus, algorithm: str, release: Callable[[], None]
    ) -> None:
        self._store = store
        self._ingest = ingest
        self._status = status
        self._release = release
        self._algorithm = algorithm
        self._updated_at = status.updated_at
        self._offset = status.offset
        self._fd = os.open(ingest.data, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._hash = _hash_file(self._fd, algorithm, self._offset)
            os.lseek(self._fd, self._offset, os.SEEK_SET)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def path(self) -> Path:
        return Path(self._ingest.data)

    def status(self) -> IngestStatus:
        return IngestStatus(
            ref=self._status.ref,
            offset=self._offset,
            total=self._status.total,
            expected=self._status.expected,
            started_at=self._status.started_at,
            updated_at=self._updated_at,
        )

    def digest(self) -> str:
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def write(self, data: bytes | memoryview) -> int:
        fd = self._open_fd()
        length = len(data) if isinstance(data, bytes) else data.nbytes
        with translating(f"write to ingest {self._status.ref!r}"):
            try:
                written = os.write(fd, data)
                if written < length:
                    self._write_rest(fd, memoryview(data).cast("B"), written)
            except OSError:
                # Nothing of a failed write counts: the file goes back to what the digest covers.
                os.ftruncate(fd, self._offset)
                os.lseek(fd, self._offset, os.SEEK_SET)
                raise
        self._hash.update(data)
        self._offset += length
        self._updated_at = time.time_ns()
        return length

    @staticmethod
    def _write_rest(fd: int, data: memoryview, written: int) -> None:
        while written < len(data):
            written += os.write(fd, data[written:])

    def truncate(self, size: int) -> None:
        fd = self._open_fd()
        if not 0 <= size <= self._offset:
            raise OutOfRange(f"cannot truncate ingest {self._status.ref!r} of {self._offset} bytes to {size}")
        with translating(f"truncate ingest {self._status.ref!r}"):
            os.ftruncate(fd, size)
            self._hash = _hash_file(fd, self._algorithm, size)
            os.lseek(fd, size, os.SEEK_SET)
        self._offset = size
        self._updated_at = time.time_ns()

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Info:
        """`labels` are not kept: they are the metadata layer's. See the contract for the rest."""
        fd = self._open_fd()
        try:
            digest = self._verified(fd, size, expected)
            with translating(f"commit ingest {self._status.ref!r}"):
                os.fchmod(fd, 0o444)
                os.fsync(fd)
            self._store.publish(self._ingest, digest)
        finally:
            self.close()
        now = time.time_ns()
        return Info(digest=digest, size=self._offset, created_at=now, updated_at=now)

    def _verified(self, fd: int, size: int, expected: str) -> str:
        """The digest of what was written, in the algorithm of `expected`; `FailedPrecondition` for what is not met."""
        ref = self._status.ref
        if size and size != self._offset:
            raise FailedPrecondition(f"ingest {ref!r} has {self._offset} bytes, not the {size} that were announced")
        if not expected:
            return self.digest()
        algorithm = check_digest(expected).partition(":")[0]
        if algorithm != self._algorithm:
            with translating(f"read ingest {ref!r}"):
                self._hash = _hash_file(fd, algorithm, self._offset)
            self._algorithm = algorithm
        actual = self.digest()
        if actual != expected:
            raise FailedPrecondition(f"ingest {ref!r} has digest {actual}, not the expected {expected}")
        return actual

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            self._release()

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise FailedPrecondition(f"the writer of ingest {self._status.ref!r} is closed")
        return self._fd


def _hash_file(fd: int, algorithm: str, size: int) -> _Hash:
    """The digest state after the first `size` bytes of the file. `OSError` also where the file is shorter."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    buffer = memoryview(bytearray(min(_CHUNK, size)))
    offset = 0
    while offset < size:
        count = os.preadv(fd, [buffer[: size - offset]], offset)
        if count == 0:
            raise OSError(f"the file ended at {offset} bytes, expected {size}")
        state.update(buffer[:count])
        offset += count
    return state
