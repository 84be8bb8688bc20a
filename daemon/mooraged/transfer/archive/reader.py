"""An archive's tar into blobs: each file goes straight to the content store, but for the few documents that say what the
others are. One pass, no temporary files."""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from moorage_api.content import ContentStore, Writer
from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from moorage_api.oci import image
from moorage_api.types import Descriptor, check_digest
from mooraged.differ.tar.events import Data, End, Entry, TarError, Type
from mooraged.differ.tar.reader import Reader
from mooraged.transfer.archive.inflate import Inflate

LAYOUT, INDEX, DOCKER, LEGACY = "oci-layout", "index.json", "manifest.json", "repositories"
ENTRIES_MAX = 65536
"""Entries of an archive."""
DOCUMENTS_MAX = 32 << 20
"""Bytes of all documents that are kept in memory."""
_WRITE = 1 << 18
_LEGACY_DOCUMENT = "json"
_IGNORED = "VERSION"


@dataclass
class Contents:
    """What an archive had: blobs by path (their media types empty), links to paths, and documents by path."""

    blobs: dict[str, Descriptor] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)

    def blob(self, path: str) -> Descriptor:
        """The blob at a path, through at most one link. `InvalidArgument` where there is none."""
        path = posixpath.normpath(path)
        found = self.blobs.get(path) or self.blobs.get(self.links.get(path, ""))
        if found is None:
            raise InvalidArgument(f"the archive names {path[:200]!r} and does not have it")
        return found


class ArchiveReader:
    """Takes the bytes of one archive. Blocks its caller for the disk; `close` must be called in the end."""

    def __init__(self, content: ContentStore) -> None:
        self.contents = Contents()
        self._content = content
        self._token = secrets.token_hex(8)
        self._inflate = Inflate(self._receive)
        self._tar = Reader()
        self._entries = 0
        self._kept = 0
        self._file: _Document | _Blob | None = None

    def write(self, data: bytes) -> None:
        """The next bytes. `InvalidArgument` for what is no archive of images or is damaged, `ResourceExhausted`."""
        self._guarded(lambda: self._inflate.write(data))

    def finish(self) -> Contents:
        """Say that there is no more."""
        self._guarded(self._inflate.finish)
        self._guarded(self._tar.finish)
        return self.contents

    def close(self) -> None:
        """Give back what a broken archive left open."""
        if isinstance(self._file, _Blob):
            self._file.abort()
        self._file = None

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except TarError as error:
            raise InvalidArgument(f"the archive cannot be read: {error}") from error

    def _receive(self, data: bytes) -> None:
        for event in self._tar.receive(data):
            match event:
                case Entry():
                    self._begin(event)
                case Data():
                    self._take(event)
                case End() if self._file is not None:
                    self._file.finish(self.contents)
                    self._file = None

    def _begin(self, entry: Entry) -> None:
        self._entries += 1
        if self._entries > ENTRIES_MAX:
            raise ResourceExhausted(f"the archive has more than {ENTRIES_MAX} entries")
        path = posixpath.normpath(entry.name.decode("utf-8", "backslashreplace"))
        if entry.type in (Type.SYMLINK, Type.LINK):
            folder = posixpath.dirname(path) if entry.type is Type.SYMLINK else ""
            target = entry.link.decode("utf-8", "backslashreplace")
            self.contents.links[path] = posixpath.normpath(posixpath.join(folder, target))
        elif entry.type is Type.FILE:
            self._file = self._opened(path, entry.size)

    def _opened(self, path: str, size: int) -> _Document | _Blob | None:
        name = posixpath.basename(path)
        if path in (LAYOUT, INDEX, DOCKER, LEGACY) or (name == _LEGACY_DOCUMENT and path != name):
            self._kept += size
            if self._kept > DOCUMENTS_MAX or size > image.CONFIG_MAX:
                raise ResourceExhausted(f"the archive's {path[:200]!r} is too large: {size} bytes")
            return _Document(path)
        if name == _IGNORED:
            return None
        return _Blob(self._content, path, size, f"import-{self._token}-{self._entries}")

    def _take(self, data: Data) -> None:
        if self._file is not None:
            if data.offset != self._file.size:
                raise InvalidArgument("the archive has a sparse file")
            self._file.write(data.view)


class _Document:
    """A file that is kept in memory."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._data = bytearray()

    @property
    def size(self) -> int:
        return len(self._data)

    def write(self, data: memoryview) -> None:
        self._data += data

    def finish(self, contents: Contents) -> None:
        contents.documents[self._path] = bytes(self._data)


class _Blob:
    """A file that becomes a blob. One whose path is its digest must have that digest; what is there is not written."""

    def __init__(self, content: ContentStore, path: str, size: int, ref: str) -> None:
        self._content = content
        self._path = path
        self._total = size
        self._ref = ref
        self._pending = bytearray()
        self._expected = _digest_in(path)
        self._writer: Writer | None = None
        self.size = 0
        try:
            self._writer = content.writer(ref, size, self._expected)
        except AlreadyExists:
            if content.info(self._expected).size != size:
                raise InvalidArgument(f"the archive's {path!r} has {size} bytes, and not those of its digest") from None
        if self._writer is not None and self._expected and self._writer.status().offset == size:
            # The store shares it with another namespace: nothing is left to be written.
            writer, self._writer = self._writer, None
            writer.commit(size, self._expected)

    def write(self, data: memoryview) -> None:
        self.size += len(data)
        if self._writer is not None:
            self._pending += data
            if len(self._pending) >= _WRITE:
                self._flush(self._writer)

    def finish(self, contents: Contents) -> None:
        if self.size != self._total:
            raise InvalidArgument(f"the archive has a sparse file: {self._path[:200]!r}")
        digest = self._expected
        if self._writer is not None:
            self._flush(self._writer)
            digest = self._commit(self._writer)
        contents.blobs[self._path] = Descriptor("", digest, self._total)

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.close()
            try:
                self._content.abort(self._ref)
            except NotFound:
                return  # it was committed, or refused with the commit

    def _flush(self, writer: Writer) -> None:
        writer.write(bytes(self._pending))
        self._pending.clear()

    def _commit(self, writer: Writer) -> str:
        digest = writer.digest()
        try:
            writer.commit(self._total, self._expected)
        except AlreadyExists:
            return digest  # and the lease holds it from now on
        except FailedPrecondition as error:
            raise InvalidArgument(f"the archive's {self._path!r} is not what it says: {error}") from error
        return digest


def _digest_in(path: str) -> str:
    """The digest that a path of an OCI layout means (`blobs/sha256/…`), or nothing."""
    match path.split("/"):
        case ["blobs", algorithm, encoded]:
            try:
                return check_digest(f"{algorithm}:{encoded}")
            except InvalidArgument:
                return ""
    return ""
