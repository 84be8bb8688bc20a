"""Writers of a namespace's ingests."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from moorage_api.closing import Closing
from moorage_api.content import ContentStore, Info, IngestStatus, WritesAhead, WritesFile
from moorage_api.errors import FailedPrecondition, OutOfRange
from moorage_api.types import Labels
from mooraged.metadata.naming import renaming

_CHUNK = 1 << 20


class BackendWriter(Protocol):
    """What a namespaced writer needs of the one below: a backend's, or one that stands for a blob that is there."""

    def status(self) -> IngestStatus: ...

    def digest(self) -> str: ...

    def write(self, data: bytes | memoryview) -> int: ...

    def truncate(self, size: int) -> None: ...

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Info: ...

    def close(self) -> None: ...


class Owner(Protocol):
    """The namespace's content store, as its writers see it."""

    def commit(self, writer: BackendWriter, ref: str, size: int, expected: str, labels: Labels | None) -> Info:
        """Make the ingest a blob of the namespace."""

    def release_writer(self, backend_ref: str) -> None:
        """Called once, when the writer is closed."""


class NamespacedWriter(Closing):
    """A backend's writer under the ref that the client knows."""

    def __init__(self, owner: Owner, writer: BackendWriter, ref: str, backend_ref: str, expected: str) -> None:
        self._owner = owner
        self._writer = writer
        self._ref = ref
        self._backend_ref = backend_ref
        self._names = {backend_ref: ref}
        self._expected = expected
        self._closed = False

    @property
    def path(self) -> Path | None:
        return self._writer.path if isinstance(self._writer, WritesFile) else None

    def status(self) -> IngestStatus:
        status = self._writer.status()
        return IngestStatus(
            self._ref, status.offset, status.total, self._expected, status.started_at, status.updated_at
        )

    def digest(self) -> str:
        return self._writer.digest()

    def write(self, data: bytes | memoryview) -> int:
        with renaming(self._names):
            return self._writer.write(data)

    @property
    def ahead(self) -> list[tuple[int, int]] | None:
        return self._writer.ahead if isinstance(self._writer, WritesAhead) else None

    def write_ahead(self, data: bytes | memoryview, offset: int) -> None:
        if not isinstance(self._writer, WritesAhead):
            raise FailedPrecondition(f"ingest {self._ref!r} takes bytes in their turn only")
        with renaming(self._names):
            self._writer.write_ahead(data, offset)

    def truncate(self, size: int) -> None:
        with renaming(self._names):
            self._writer.truncate(size)

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Info:
        if self._closed:
            raise FailedPrecondition(f"the writer of ingest {self._ref!r} is closed")
        try:
            with renaming(self._names):
                return self._owner.commit(self._writer, self._ref, size, expected, labels)
        finally:
            self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._writer.close()
        finally:
            self._owner.release_writer(self._backend_ref)


class SharedWriter:
    """Stands for a blob that the backend has and the namespace may share: complete from the start, nothing to send.

    A client that writes or truncates all the same gets a real ingest that begins with the blob's bytes.
    """

    def __init__(self, backend: ContentStore, backend_ref: str, digest: str, size: int) -> None:
        self._backend = backend
        self._backend_ref = backend_ref
        self._digest = digest
        self._size = size
        self._started_at = time.time_ns()
        self._real: BackendWriter | None = None

    def status(self) -> IngestStatus:
        if self._real is not None:
            return self._real.status()
        return IngestStatus(self._backend_ref, self._size, self._size, self._digest, self._started_at, self._started_at)

    def digest(self) -> str:
        return self._digest if self._real is None else self._real.digest()

    def write(self, data: bytes | memoryview) -> int:
        return self._unshared(self._size).write(data) if len(data) else 0

    def truncate(self, size: int) -> None:
        if not 0 <= size <= self.status().offset:
            raise OutOfRange(f"cannot truncate ingest {self._backend_ref!r} of {self.status().offset} bytes to {size}")
        self._unshared(size).truncate(size)

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Info:
        if self._real is not None:
            return self._real.commit(size, expected, labels)
        if size and size != self._size:
            raise FailedPrecondition(f"content {self._digest} has {self._size} bytes, not the {size} announced")
        if expected and expected != self._digest:
            raise FailedPrecondition(f"ingest {self._backend_ref!r} has digest {self._digest}, not {expected}")
        return self._backend.info(self._digest)

    def close(self) -> None:
        if self._real is not None:
            self._real.close()

    def _unshared(self, size: int) -> BackendWriter:
        """The real ingest, made now with the first `size` bytes of the blob if there is none yet."""
        if self._real is None:
            writer = self._backend.writer(self._backend_ref)
            try:
                with self._backend.open(self._digest) as reader:
                    for offset in range(0, size, _CHUNK):
                        writer.write(reader.pread(min(_CHUNK, size - offset), offset))
            except BaseException:
                writer.close()
                raise
            self._real = writer
        return self._real
