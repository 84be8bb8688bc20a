"""What a tar archive consists of."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class TarError(Exception):
    """The archive is malformed; the message names the entry, or the place."""


class LimitError(TarError):
    """The archive is well-formed, and beyond a limit."""


class Type(Enum):
    """The kinds of entries."""

    FILE = "file"
    LINK = "hard link"
    SYMLINK = "symbolic link"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    FOLDER = "folder"
    FIFO = "fifo"


@dataclass(slots=True)
class Entry:
    """The header of one entry, with all extended headers applied.

    `name` and `link` are as the archive has them, not to be trusted. `mode` is the permission bits with set-id and
    sticky. `size` is that of the file, holes included; zero for all that is no file. `mtime` is in nanoseconds.
    `offset` is where in the archive a file's stored bytes begin, one after the other whatever holes are between them.
    """

    name: bytes
    type: Type
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    offset: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Data:
    """Bytes of the file whose entry came last, at `offset`; what no event covers is a hole. The view is good until the
    next event is asked for."""

    offset: int
    view: memoryview


@dataclass(slots=True)
class End:
    """The file whose entry came last is complete. Comes after every entry of type FILE."""


@dataclass(slots=True)
class Whole:
    """A file with all its bytes at once: in place of its entry, `Data` and `End`. The view is good until the next event is
    asked for."""

    entry: Entry
    view: memoryview


Event = Entry | Data | End | Whole
