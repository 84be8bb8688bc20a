"""Content: immutable blobs by digest, and the ingests that become blobs.

Source of the behaviour: containerd's content service (`containerd.services.content.v1`).
A backend knows nothing of namespaces; labels on a backend are best left to the metadata layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from moorage_api.types import Labels


@dataclass(frozen=True, slots=True)
class Info:
    """A blob that is there, whole and verified."""

    digest: str
    size: int
    created_at: int = 0
    updated_at: int = 0
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """An ingest: `offset` bytes are on disk; `total` and `expected` are what the writer announced, or zero and empty."""

    ref: str
    offset: int
    total: int = 0
    expected: str = ""
    started_at: int = 0
    updated_at: int = 0


class BlobReader(Protocol):
    """An open blob. Closing it twice is harmless. A blob removed while open can still be read to its end."""

    @property
    def size(self) -> int: ...

    @property
    def path(self) -> Path | None:
        """The file that holds exactly the blob's bytes, for readers on this machine; None where there is none."""

    def pread(self, length: int, offset: int) -> bytes:
        """At most `length` bytes from `offset`; empty only at the end. `OutOfRange` beyond it."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Writer(Protocol):
    """The one writer of an ingest; its bytes survive `close` and a crash, and are resumed by the next writer."""

    def status(self) -> IngestStatus: ...

    def digest(self) -> str:
        """The digest of the bytes written so far."""

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`, return its length. `ResourceExhausted` when the disk is full: nothing of `data` then counts."""

    def truncate(self, size: int) -> None:
        """Cut the ingest to `size` bytes, at most its offset."""

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Info:
        """Make the ingest a blob: verified, synced, renamed, folder synced, in this order. Closes the writer, even on error.

        A `size` or `expected` given and not met: `FailedPrecondition`, and the ingest stays until it is aborted.
        A blob that exists already: `AlreadyExists`, and the ingest is removed.
        """

    def close(self) -> None:
        """Release the ingest's lock; what was written stays. Closing twice is harmless."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class ContentStore(Protocol):
    """Blobs and ingests. Thread-safe."""

    def info(self, digest: str) -> Info:
        """The blob's record. `InvalidArgument` for a malformed digest, `NotFound`."""

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        """Change labels: all of them, or only those named (`labels`, `labels.KEY`). Other paths: `InvalidArgument`.

        A label given empty is removed. `NotFound`.
        """

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        """All blobs that match any of the filters (`moorage_api.filters`); no filters match all. Order: by digest."""

    def delete(self, digest: str) -> None:
        """Remove the blob. `NotFound`."""

    def open(self, digest: str) -> BlobReader:
        """Open for reading. `NotFound`."""

    def status(self, ref: str) -> IngestStatus:
        """The ingest's state. `NotFound`."""

    def statuses(self, filters: Sequence[str] = ()) -> list[IngestStatus]:
        """All ingests that match any of the filters, by ref."""

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Writer:
        """Open the ingest `ref`, new or to be resumed at its offset.

        `AlreadyExists` when the blob `expected` is there; `Unavailable` when another writer has the ingest open.
        """

    def abort(self, ref: str) -> None:
        """Remove an ingest that is not open. `NotFound`; `Unavailable` while a writer has it open."""


@runtime_checkable
class NamespacedContent(Protocol):
    """A content store that is one namespace's, and says which: a differ in another process finds the same blobs by it."""

    @property
    def namespace(self) -> str: ...

    @property
    def lease(self) -> str:
        """The lease that holds what is written; empty for none."""


@runtime_checkable
class WritesFile(Protocol):
    """A writer that appends to a file on this machine, which others may read while it grows."""

    @property
    def path(self) -> Path | None:
        """The file, whose first bytes are the ingest's, as many as its offset says; renamed by the commit. None where
        there is none after all."""


def file_of(writer: Writer) -> Path | None:
    """The file that a writer appends to, if it is one of this machine."""
    return writer.path if isinstance(writer, WritesFile) else None


@runtime_checkable
class WritesAhead(Protocol):
    """A writer that keeps bytes which come before their turn, beyond its offset. They survive `close` and a crash (but for
    a little at their ends), and count as soon as those before them are written: `write` moves the offset past them."""

    @property
    def ahead(self) -> list[tuple[int, int]] | None:
        """What is there beyond the offset: start and end of each range, in order. None where nothing can be written ahead
        after all."""

    def write_ahead(self, data: bytes | memoryview, offset: int) -> None:
        """Keep `data`, the bytes from `offset` on, which is beyond the writer's own. Errors as `Writer.write`."""
