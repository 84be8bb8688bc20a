"""Where things lie on disk. The layout is containerd's, so that an operator and the usual tools find their way:

blobs/<algorithm>/<hex>               a blob, read-only, named by its digest
ingest/<sha256 of ref>/ref            the ref itself
                      /data           the bytes so far, up to its first hole; after it, chunks that came before their turn.
                                      Its mtime is when the ingest was last written
                      /startedat      RFC 3339
                      /total          announced size in bytes, only if announced
                      /expected       announced digest, only if announced
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from moorage_api.content import IngestStatus
from moorage_api.errors import InvalidArgument
from moorage_api.types import check_digest
from moorage_content import holes

_REF_MAX = 4096


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths under the store's root."""

    root: Path

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def ingests(self) -> Path:
        return self.root / "ingest"

    def blob(self, digest: str) -> str:
        """The blob's path. `InvalidArgument` for a malformed digest, which is what keeps the path inside the root."""
        algorithm, _, hexadecimal = check_digest(digest).partition(":")
        return f"{self.root}/blobs/{algorithm}/{hexadecimal}"

    def ingest(self, ref: str) -> Ingest:
        """The ingest's folder. `InvalidArgument` for a ref that is empty or longer than 4096 bytes."""
        if not ref:
            raise InvalidArgument("the ref of an ingest must not be empty")
        encoded = ref.encode("utf-8", "surrogatepass")
        if len(encoded) > _REF_MAX:
            raise InvalidArgument(f"ref {ref[:64]!r}… has {len(encoded)} bytes: at most {_REF_MAX}")
        return Ingest(f"{self.root}/ingest/{hashlib.sha256(encoded).hexdigest()}", ref)


@dataclass(frozen=True, slots=True)
class Ingest:
    """The folder of one ingest."""

    path: str
    ref: str

    @property
    def data(self) -> str:
        return f"{self.path}/data"

    def create(self, total: int, expected: str) -> None:
        """Write the record of a new ingest, over whatever is there. `ref` comes last: without it nobody sees it."""
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            self.remove()
            os.mkdir(self.path, 0o700)
        _write(self.data, b"")
        _write(f"{self.path}/startedat", datetime.now(UTC).isoformat().encode())
        if total:
            _write(f"{self.path}/total", b"%d" % total)
        if expected:
            _write(f"{self.path}/expected", expected.encode())
        _write(f"{self.path}/ref", self.ref.encode("utf-8", "surrogatepass"))

    def remove(self) -> None:
        """Remove the folder and all in it; no error where there is none. The ref goes first, as it came last."""
        for name in ("ref", "startedat", "total", "expected", "data"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self.path}/{name}")
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return
        except OSError:
            shutil.rmtree(self.path)  # something else is in it: another version's, or an operator's

    def status(self) -> IngestStatus | None:
        """The ingest's state, or None where there is none, or only the rest of one that a crash left half made."""
        try:
            if _read(f"{self.path}/ref") != self.ref:
                return None
            offset, updated_at = self._data_status()
            started = datetime.fromisoformat(_read(f"{self.path}/startedat"))
        except (FileNotFoundError, ValueError):
            return None
        started_at = int(started.timestamp() * 1_000_000) * 1000
        return IngestStatus(
            ref=self.ref,
            offset=offset,
            total=int(_read_optional(f"{self.path}/total") or 0),
            expected=_read_optional(f"{self.path}/expected"),
            started_at=started_at,
            updated_at=max(updated_at, started_at),  # the kernel's clock for files ticks coarsely
        )

    def _data_status(self) -> tuple[int, int]:
        """How many bytes are there from the beginning on, and when the last were written."""
        fd = os.open(self.data, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return holes.begun(fd), os.fstat(fd).st_mtime_ns
        finally:
            os.close(fd)


def ingest_at(path: str) -> Ingest | None:
    """The ingest in the folder `path`, or None where its ref is missing, torn or another's."""
    try:
        ref = _read(f"{path}/ref")
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    named = hashlib.sha256(ref.encode("utf-8", "surrogatepass")).hexdigest()
    return Ingest(path, ref) if named == os.path.basename(path) else None


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _read(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.read().decode("utf-8", "surrogatepass")


def _read_optional(path: str) -> str:
    try:
        return _read(path)
    except FileNotFoundError:
        return ""
