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
from moorage_api.linux.files import write_at
from moorage_api.types import Labels, check_digest
from moorage_content import holes
from moorage_content.holes import Ranges
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

    Bytes go to the file as they come, and the digest is kept along; so resuming costs reading the file once. Bytes that
    come before their turn (`ahead`: whether the file system keeps track of them) go to their place, and are digested from
    there.
    """

    def __init__(
        self,
        store: Publisher,
        ingest: Ingest,
        status: IngestStatus,
        algorithm: str,
        release: Callable[[], None],
        *,
        ahead: bool = False,
    ) -> None:
        self._store = store
        self._ingest = ingest
        self._status = status
        self._release = release
        self._takes_ahead = ahead
        self._algorithm = algorithm
        self._updated_at = status.updated_at
        self._offset = status.offset
        self._fd = os.open(ingest.data, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._ahead = holes.beyond(self._fd, status.total)
            self._hash = _hash_file(self._fd, algorithm, self._offset)
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
                write_at(fd, data, self._offset)
            except OSError:
                # Nothing of a failed write counts: the file goes back to what the digest covers.
                self._cut(fd)
                raise
        self._hash.update(data)
        self._offset += length
        if self._ahead:
            self._catch_up(fd)
        self._updated_at = time.time_ns()
        return length

    @property
    def ahead(self) -> Ranges | None:
        return list(self._ahead) if self._takes_ahead else None

    def write_ahead(self, data: bytes | memoryview, offset: int) -> None:
        fd = self._open_fd()
        view = memoryview(data).cast("B")
        if not self._takes_ahead:
            raise FailedPrecondition(f"ingest {self._status.ref!r} takes bytes in their turn only")
        if offset <= self._offset:
            raise OutOfRange(f"byte {offset} is not ahead of ingest {self._status.ref!r} of {self._offset} bytes")
        with translating(f"write to ingest {self._status.ref!r}"):
            write_at(fd, view, offset)
        self._ahead = holes.add(self._ahead, offset, offset + len(view))
        self._updated_at = time.time_ns()

    def _catch_up(self, fd: int) -> None:
        """Take what was written ahead, and has its turn now."""
        while self._ahead and self._ahead[0][0] <= self._offset:
            end = self._ahead.pop(0)[1]
            if end > self._offset:
                with translating(f"read ingest {self._status.ref!r}"):
                    _update(self._hash, fd, self._offset, end)
                    self._offset = end

    def _cut(self, fd: int) -> None:
        """Take back all that is beyond the offset."""
        os.ftruncate(fd, self._offset)
        self._ahead = []

    def truncate(self, size: int) -> None:
        fd = self._open_fd()
        if not 0 <= size <= self._offset:
            raise OutOfRange(f"cannot truncate ingest {self._status.ref!r} of {self._offset} bytes to {size}")
        with translating(f"truncate ingest {self._status.ref!r}"):
            self._hash = _hash_file(fd, self._algorithm, size)
            self._offset = size
            self._cut(fd)
        self._updated_at = time.time_ns()

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Info:
        """`labels` are not kept: they are the metadata layer's. See the contract for the rest."""
        fd = self._open_fd()
        try:
            digest = self._verified(fd, size, expected)
            with translating(f"commit ingest {self._status.ref!r}"):
                if os.fstat(fd).st_size != self._offset:
                    self._cut(fd)
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
    _update(state, fd, 0, size)
    return state


def _update(state: _Hash, fd: int, offset: int, end: int) -> None:
    """Digest the bytes of the file from `offset` to before `end`. `OSError` also where the file is shorter."""
    buffer = memoryview(bytearray(min(_CHUNK, end - offset)))
    while offset < end:
        count = os.preadv(fd, [buffer[: end - offset]], offset)
        if count == 0:
            raise OSError(f"the file ended at {offset} bytes, expected {end}")
        state.update(buffer[:count])
        offset += count
