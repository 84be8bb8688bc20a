"""What becomes of a layer's entries (OCI image specification, layer, applying changesets), wherever they are kept."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from mooraged.differ.folders import clean
from mooraged.differ.limits import Limits
from mooraged.differ.tar.events import Data, Entry, Event, LimitError, TarError, Type, Whole
from mooraged.differ.whiteouts import META_PREFIX, OPAQUE, PREFIX

F = TypeVar("F")

DEVICE_MAX = (1 << 32) - 1
_ID_MAX = (1 << 32) - 2
# The times that every file system of today can keep; others are moved to the nearest.
_TIME_MIN, _TIME_MAX = 0, (1 << 34) * 1_000_000_000 - 1
# What overlayfs and other parts of the kernel keep for themselves: no layer may set it.
_FORBIDDEN_XATTRS = ("trusted.", "user.overlay.")
# What the archive is to blame for, among the errors of the file system.
_ARCHIVE_FAULTS = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EPERM,
        errno.EMLINK,
        errno.EFBIG,
        errno.ERANGE,
        errno.E2BIG,
        errno.EXDEV,
    )
)


class Sink(ABC, Generic[F]):
    """Takes the events of a tar archive. `makers` make an entry, by its type: called with the entry, its path, the folder
    that it is in, and its name there. `TarError` names the entry."""

    def __init__(self, limits: Limits, makers: Mapping[Type, Callable[[Entry, bytes, F, bytes], None]]) -> None:
        self._limits = limits
        self._makers = makers
        self._make_file_of = makers[Type.FILE]
        self._entries = 0
        self._entry: Entry | None = None
        self._filling: Entry | None = None
        self.incomplete = False
        """True once a folder was made that the archive has had no entry for, with attributes of no layer below."""

    def take(self, event: Event) -> None:
        """The next event. After an error, only `close` may follow."""
        try:
            if type(event) is Whole:
                self._entry = event.entry
                if (place := self._place(event.entry)) is not None:
                    self._make_whole(event.entry, *place, event.view)
            elif type(event) is Entry:
                self._entry = event
                self._begin(event)
            elif self._filling is not None:
                if type(event) is Data:
                    self._write(self._filling, event)
                else:
                    self._finish_file(self._filling)
                    self._filling = None
        except TarError as error:
            raise type(error)(f"{self._name()}: {error}") from error
        except OSError as error:
            if error.errno in _ARCHIVE_FAULTS:
                raise TarError(f"{self._name()}: {error.strerror}") from error
            raise OSError(error.errno, f"{self._name()}: {error.strerror}") from error

    @abstractmethod
    def finish(self) -> None:
        """The archive is complete: do what had to wait for that."""

    @abstractmethod
    def close(self) -> None:
        """Release what is held; also after an error."""

    @abstractmethod
    def _folder(self, path: bytes) -> F:
        """The folder at `path`, made if need be."""

    @abstractmethod
    def _remove(self, folder: F, name: bytes, uid: int, gid: int) -> None:
        """What the layers below have of that name in the folder is gone."""

    @abstractmethod
    def _empty(self, folder: F) -> None:
        """All that the layers below have in the folder is gone."""

    @abstractmethod
    def _write(self, entry: Entry, event: Data) -> None:
        """Bytes of the file that was made last."""

    @abstractmethod
    def _finish_file(self, entry: Entry) -> None:
        """The file that was made last has all its bytes."""

    def _make_whole(self, entry: Entry, path: bytes, folder: F, name: bytes, view: memoryview) -> None:
        """Make a file that has all its bytes, `view`, at once."""
        self._make_file_of(entry, path, folder, name)
        self._write(entry, Data(0, view))
        self._finish_file(entry)

    def _count(self) -> None:
        self._entries += 1
        if self._entries > self._limits.max_entries:
            raise LimitError(f"more than {self._limits.max_entries} entries")

    def _begin(self, entry: Entry) -> None:
        place = self._place(entry)
        if place is None:
            return
        self._makers[entry.type](entry, *place)
        if entry.type is Type.FILE:
            self._filling = entry

    def _place(self, entry: Entry) -> tuple[bytes, F, bytes] | None:
        """Path, folder and name of what is to be made for an entry; None where that is nothing."""
        self._count()
        path = clean(entry.name, self._limits.max_depth, self._limits.max_path)
        if not path:
            # The root itself belongs to the snapshotter, not to a layer.
            return None
        parent, _, name = path.rpartition(b"/")
        if name.startswith(PREFIX):
            self._whiteout(entry, parent, name)
            return None
        if not (0 <= entry.uid <= _ID_MAX and 0 <= entry.gid <= _ID_MAX):
            raise TarError(f"owner {entry.uid}:{entry.gid} is out of range")
        if entry.size > self._limits.max_size:
            raise LimitError(f"a file of {entry.size} bytes: at most {self._limits.max_size}")
        return path, self._folder(parent), name

    def _whiteout(self, entry: Entry, parent: bytes, name: bytes) -> None:
        if name == OPAQUE:
            self._empty(self._folder(parent))
        elif name.startswith(META_PREFIX):
            # Bookkeeping of AUFS, of no meaning here.
            return
        else:
            gone = name[len(PREFIX) :]
            if gone in (b"", b".", b".."):
                raise TarError("a whiteout of no name")
            self._remove(self._folder(parent), gone, entry.uid, entry.gid)

    def _name(self) -> str:
        return entry_name(self._entry.name) if self._entry else "the archive"


def entry_name(name: bytes) -> str:
    """An entry's name for a message: quoted, and not endless."""
    return repr(name[:200].decode("utf-8", "backslashreplace"))


def time_of(entry: Entry) -> int:
    """The time of an entry, in nanoseconds, as it can be kept."""
    return min(max(entry.mtime, _TIME_MIN), _TIME_MAX)


def may_be_set(key: str) -> bool:
    """Whether an extended attribute is a layer's to set."""
    return not key.startswith(_FORBIDDEN_XATTRS)
