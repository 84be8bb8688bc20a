"""A content store in memory: what a differ under test reads from and writes to."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from moorage_api import adaptors, filters
from moorage_api.closing import Closing
from moorage_api.content import Info, IngestStatus
from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, Unavailable
from moorage_api.fieldpaths import update_labels, without_empty
from moorage_api.types import Labels, check_digest


@dataclass
class _Ingest:
    status: IngestStatus
    data: bytearray = field(default_factory=bytearray)
    open: bool = False


class MemoryContentStore:
    """`moorage_api.content.ContentStore`, and a namespace's (`NamespacedContent`). Nothing outlives the process."""

    namespace = "default"
    lease = ""

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[Info, bytes]] = {}
        self._ingests: dict[str, _Ingest] = {}
        self._lock = threading.Lock()

    def put(self, data: bytes) -> Info:
        """Write a blob."""
        with self.writer(f"put-{len(self._blobs)}") as writer:
            writer.write(data)
            return writer.commit()

    def read(self, digest: str) -> bytes:
        """A blob's bytes. `NotFound`."""
        return self._blob(digest)[1]

    def info(self, digest: str) -> Info:
        return self._blob(digest)[0]

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        old, data = self._blob(info.digest)
        labels = update_labels(old.labels, info.labels, fieldpaths, f"content {info.digest}")
        self._blobs[info.digest] = replace(old, labels=labels, updated_at=time.time_ns()), data
        return self.info(info.digest)

    def walk(self, filters_: Sequence[str] = ()) -> Iterator[Info]:
        accepted = filters.parse(filters_)
        infos = [self._blobs[digest][0] for digest in sorted(self._blobs)]
        return (info for info in infos if accepted.matches(adaptors.content_info(info)))

    def delete(self, digest: str) -> None:
        self._blob(digest)
        del self._blobs[digest]

    def open(self, digest: str) -> MemoryReader:
        return MemoryReader(self._blob(digest)[1])

    def status(self, ref: str) -> IngestStatus:
        if ref not in self._ingests:
            raise NotFound(f"ingest {ref!r} not found")
        return self._ingests[ref].status

    def statuses(self, filters_: Sequence[str] = ()) -> list[IngestStatus]:
        accepted = filters.parse(filters_)
        found = [self._ingests[ref].status for ref in sorted(self._ingests)]
        return [status for status in found if accepted.matches(adaptors.ingest_status(status))]

    def writer(self, ref: str, total: int = 0, expected: str = "") -> MemoryWriter:
        if not ref or total < 0:
            raise InvalidArgument("an ingest needs a ref, and a total that is not negative")
        with self._lock:
            if expected and check_digest(expected) in self._blobs:
                raise AlreadyExists(f"blob {expected} exists")
            now = time.time_ns()
            ingest = self._ingests.setdefault(ref, _Ingest(IngestStatus(ref, 0, total, expected, now, now)))
            if ingest.open:
                raise Unavailable(f"ingest {ref!r} has a writer")
            ingest.open = True
        return MemoryWriter(self, ingest)

    def abort(self, ref: str) -> None:
        self.status(ref)
        if self._ingests[ref].open:
            raise Unavailable(f"ingest {ref!r} has a writer")
        del self._ingests[ref]

    def _blob(self, digest: str) -> tuple[Info, bytes]:
        if check_digest(digest) not in self._blobs:
            raise NotFound(f"content {digest} not found")
        return self._blobs[digest]

    def _keep(self, ingest: _Ingest, size: int, expected: str, labels: Labels | None) -> Info:
        """Make the ingest a blob."""
        if expected:
            check_digest(expected)
        data = bytes(ingest.data)
        algorithm = expected.partition(":")[0] or "sha256"
        digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        if (size and size != len(data)) or (expected and expected != digest):
            raise FailedPrecondition(f"ingest {ingest.status.ref!r}: {len(data)} bytes, {digest}, are not as announced")
        with self._lock:
            del self._ingests[ingest.status.ref]
            if digest in self._blobs:
                raise AlreadyExists(f"blob {digest} exists")
            now = time.time_ns()
            self._blobs[digest] = Info(digest, len(data), now, now, without_empty(labels or {})), data
        return self.info(digest)


class MemoryReader(Closing):
    """An open blob."""

    path: Path | None = None

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._closed = False

    @property
    def size(self) -> int:
        return len(self._data)

    def pread(self, length: int, offset: int) -> bytes:
        if self._closed:
            raise FailedPrecondition("read after close")
        if offset > self.size:
            raise OutOfRange(f"read at {offset} of {self.size} bytes")
        return self._data[offset : offset + length]

    def close(self) -> None:
        self._closed = True


class MemoryWriter(Closing):
    """The writer of an ingest."""

    def __init__(self, store: MemoryContentStore, ingest: _Ingest) -> None:
        self._store = store
        self._ingest = ingest
        self._closed = False

    def status(self) -> IngestStatus:
        return self._ingest.status

    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self._ingest.data).hexdigest()}"

    def write(self, data: bytes | memoryview) -> int:
        self._check()
        self._ingest.data += data
        self._moved()
        return len(data)

    def truncate(self, size: int) -> None:
        self._check()
        if size > len(self._ingest.data):
            raise OutOfRange(f"cut to {size}, has {len(self._ingest.data)} bytes")
        del self._ingest.data[size:]
        self._moved()

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Info:
        self._check()
        try:
            return self._store._keep(self._ingest, size, expected, labels)
        finally:
            self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._ingest.open = False

    def _check(self) -> None:
        if self._closed:
            raise FailedPrecondition(f"ingest {self._ingest.status.ref!r}: its writer is closed")

    def _moved(self) -> None:
        size = len(self._ingest.data)
        self._ingest.status = replace(self._ingest.status, offset=size, updated_at=time.time_ns())
