"""Reads a tar archive: bytes in, events out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

from mooraged.differ.tar import fields, sparse
from mooraged.differ.tar.events import Data, End, Entry, Event, LimitError, TarError, Type, Whole

BLOCK = 512
_ZERO = bytes(BLOCK)
_EXTENDED_HEADER_MAX = 1 << 20
_SIZE_MAX = (1 << 63) - 1
_XATTR = b"SCHILY.xattr."

_TYPES: dict[int, Type] = {
    ord("\0"): Type.FILE,
    ord("0"): Type.FILE,
    ord("7"): Type.FILE,
    ord("S"): Type.FILE,
    ord("1"): Type.LINK,
    ord("2"): Type.SYMLINK,
    ord("3"): Type.CHARACTER_DEVICE,
    ord("4"): Type.BLOCK_DEVICE,
    ord("5"): Type.FOLDER,
    ord("6"): Type.FIFO,
}

_EXTENDED = frozenset(b"xgLK")
_Events = Sequence[Event]
_END = End()


class Reader:
    """Bytes of an archive in, events out. Memory is bounded whatever the archive says.

    `for event in reader.receive(chunk)` for each chunk, of any size, and `finish` at the end. `TarError` for what is no
    tar archive, or contradicts itself; nothing of the archive may be relied on after it. What follows the end of the
    archive (two blocks of zeros) is passed over.

    A file of 1 to `whole` bytes, all of them at hand and none of them a hole, is one event, `Whole`, in place of three.
    """

    def __init__(self, whole: int = 0) -> None:
        self._whole = whole
        self._ended = False
        self._zeros = 0
        self._partial = bytearray()
        # Bytes of the archive before those at hand, and before the end of the block at hand.
        self._received = 0
        self._at = 0
        self._on_block: Callable[[bytes], _Events] = self._header
        # Bytes of the current member still to come, what takes them, and the padding after them.
        self._left = 0
        self._padding = 0
        self._on_payload: Callable[[memoryview], _Events] = self._skip
        # Whether what is to come is a file that `Whole` may be for.
        self._is_small = False
        self._entry: Entry | None = None
        self._offset = 0
        self._regions: sparse.Regions = []
        self._region = 0
        self._map = sparse.Map1()
        # Extended headers seen before the entry that they are about.
        self._collected = bytearray()
        self._pax: list[tuple[bytes, bytes]] = []
        self._long_name = b""
        self._long_link = b""

    def receive(self, data: bytes | memoryview) -> Iterator[Event]:
        """The events that `data`, the next bytes of the archive, complete."""
        view = memoryview(data)
        position, end = 0, len(view)
        while position < end and not self._ended:
            if self._left:
                take = min(self._left, end - position)
                self._left -= take
                yield from self._on_payload(view[position : position + take])
                position += take
                if not self._left and self._padding <= end - position:
                    position += self._padding
                    self._padding = 0
            elif self._padding:
                take = min(self._padding, end - position)
                self._padding -= take
                position += take
            elif not self._partial and end - position >= BLOCK:
                block = bytes(view[position : position + BLOCK])
                position += BLOCK
                self._at = self._received + position
                events = self._on_block(block)
                if self._is_small and 0 < self._left <= end - position:
                    data = view[position : position + self._left]
                    position += self._left
                    self._left = 0
                    yield Whole(cast(Entry, self._entry), data)
                    if self._padding <= end - position:
                        position += self._padding
                        self._padding = 0
                else:
                    yield from events
            else:
                take = min(BLOCK - len(self._partial), end - position)
                self._partial += view[position : position + take]
                position += take
                if len(self._partial) == BLOCK:
                    block = bytes(self._partial)
                    self._partial.clear()
                    self._at = self._received + position
                    yield from self._on_block(block)
        self._received += end

    def finish(self) -> None:
        """Say that all bytes were given. `TarError` where the archive stops short; a missing end mark is fine."""
        if self._ended:
            return
        if self._left or self._partial or self._on_block != self._header or self._pax or self._long_name:
            name = f" within {_show(self._entry.name)}" if self._entry else ""
            raise TarError(f"the archive stops short{name}")

    def _header(self, block: bytes) -> _Events:
        if block == _ZERO:
            self._zeros += 1
            self._ended = self._zeros == 2
            return ()
        if self._zeros:
            raise TarError("a block of zeros within the archive")
        fields.check_sum(block)
        size = fields.number(block[124:136])
        if not 0 <= size <= _SIZE_MAX:
            raise TarError(f"{_show(fields.text(block[:100]))}: invalid size {size}")
        if block[156] in _EXTENDED:
            self._begin_extended(block[156:157], size)
            return ()
        try:
            return self._member(block, size)
        except TarError as error:
            raise type(error)(f"{_show(self._long_name or fields.text(block[:100]))}: {error}") from error

    def _begin_extended(self, kind: bytes, size: int) -> None:
        """An extended header follows. Global ones are passed over, as containerd does: none of them is about an entry."""
        if kind == b"g":
            self._payload(size, self._skip)
            return
        if size > _EXTENDED_HEADER_MAX:
            raise LimitError(f"an extended header of {size} bytes: at most {_EXTENDED_HEADER_MAX}")
        self._collected.clear()
        done = {b"x": self._take_pax, b"L": self._take_long_name, b"K": self._take_long_link}[kind]

        def collect(part: memoryview) -> _Events:
            self._collected += part
            if not self._left:
                done(bytes(self._collected))
            return ()

        self._payload(size, collect)

    def _take_pax(self, data: bytes) -> None:
        self._pax = fields.pax_records(data)

    def _take_long_name(self, data: bytes) -> None:
        self._long_name = fields.text(data)

    def _take_long_link(self, data: bytes) -> None:
        self._long_link = fields.text(data)

    def _member(self, block: bytes, size: int) -> _Events:
        """An entry proper: its header block, and all extended headers since the last entry."""
        kind = _TYPES.get(block[156])
        if kind is None:
            raise TarError(f"unknown type of entry {block[156:157]!r}")
        entry = self._entry = _entry(block, kind)
        stored = size
        records = self._pax
        if records or self._long_name or self._long_link:
            entry.name = self._long_name or entry.name
            entry.link = self._long_link or entry.link
            self._pax, self._long_name, self._long_link = [], b"", b""
            stored = _apply_pax(entry, records, size)
        if kind is not Type.FILE:
            # Whatever size such a header gives, no data follows it (Go, GNU tar).
            return (entry,)
        if block[156] == 0 and entry.name.endswith(b"/"):
            entry.type = Type.FOLDER
            self._payload(stored, self._skip)
            return (entry,)
        if block[156] == ord("S"):
            return self._begin_old_sparse(entry, block, stored)
        return self._begin_file(entry, records, stored)

    def _begin_file(self, entry: Entry, records: list[tuple[bytes, bytes]], stored: int) -> _Events:
        sparse_records = {key: value for key, value in records if key.startswith(b"GNU.sparse.")} if records else {}
        if not sparse_records:
            entry.size = stored
            return self._begin_data(entry, [(0, stored)] if stored else [], stored)
        entry.name = sparse_records.get(b"GNU.sparse.name", entry.name)
        real = sparse_records.get(b"GNU.sparse.realsize") or sparse_records.get(b"GNU.sparse.size")
        if real is None:
            raise TarError("a sparse file without its size")
        entry.size = fields.decimal(real, "sparse size")
        if (sparse_records.get(b"GNU.sparse.major"), sparse_records.get(b"GNU.sparse.minor")) == (b"1", b"0"):
            return self._begin_map(entry, stored)
        regions = sparse.pax_0_map(records)
        if regions is None:
            raise TarError("a sparse file without its map")
        return self._begin_data(entry, sparse.check(regions, entry.size, stored), stored)

    def _begin_map(self, entry: Entry, stored: int) -> _Events:
        """Sparse files of pax 1.0: the map comes first, in the data."""
        self._map = sparse.Map1()
        left = stored

        def take(block: bytes) -> _Events:
            nonlocal left
            left -= BLOCK
            if left < 0:
                raise TarError(f"{_show(entry.name)}: the sparse map is longer than the data")
            if not self._map.feed(block):
                return ()
            self._on_block = self._header
            return self._begin_data(entry, sparse.check(self._map.regions, entry.size, left), left)

        self._on_block = take
        return ()

    def _begin_old_sparse(self, entry: Entry, block: bytes, stored: int) -> _Events:
        """Sparse files of GNU's old format: the map is in the header, and in blocks that follow it."""
        entry.size = sparse.old_gnu_size(block)
        regions, more = sparse.old_gnu_map(block)
        if not more:
            return self._begin_data(entry, sparse.check(regions, entry.size, stored), stored)

        def take(extension: bytes) -> _Events:
            further, again = sparse.old_gnu_extension(extension)
            regions.extend(further)
            if again:
                sparse.check_count(regions)
                return ()
            self._on_block = self._header
            return self._begin_data(entry, sparse.check(regions, entry.size, stored), stored)

        self._on_block = take
        return ()

    def _begin_data(self, entry: Entry, regions: sparse.Regions, stored: int) -> _Events:
        if not 0 <= entry.size <= _SIZE_MAX:
            raise TarError(f"invalid size {entry.size}")
        if not stored:
            return (entry, _END)
        entry.offset = self._at
        self._regions = regions
        self._region = self._offset = 0
        self._payload(stored, self._data)
        self._is_small = stored <= self._whole and entry.size == stored
        return (entry,)

    def _data(self, part: memoryview) -> _Events:
        """A part of a file's stored bytes, cut where the regions of a sparse file end."""
        events: list[Event] = []
        if len(self._regions) == 1:
            # No holes but at the ends: what nearly all files are like.
            events.append(Data(self._regions[0][0] + self._offset, part))
            self._offset += len(part)
            if not self._left:
                events.append(_END)
            return events
        while len(part):
            start, length = self._regions[self._region]
            here = part[: length - self._offset]
            events.append(Data(start + self._offset, here))
            self._offset += len(here)
            part = part[len(here) :]
            if self._offset == length:
                self._region += 1
                self._offset = 0
        if not self._left:
            events.append(_END)
        return events

    def _skip(self, part: memoryview) -> _Events:
        return ()

    def _payload(self, size: int, take: Callable[[memoryview], _Events]) -> None:
        self._left = size
        self._padding = -size % BLOCK
        self._on_payload = take
        self._is_small = False


def _entry(block: bytes, kind: Type) -> Entry:
    """The entry as the header block alone has it."""
    name = fields.text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = fields.text(block[345:500]) + b"/" + name
    mode, uid, gid = fields.owner(block[100:124])
    entry = Entry(name, kind, mode, uid, gid, 0, fields.repeated_number(block[136:148]) * 1_000_000_000)
    if kind is Type.LINK or kind is Type.SYMLINK:
        entry.link = fields.text(block[157:257])
    elif kind is Type.CHARACTER_DEVICE or kind is Type.BLOCK_DEVICE:
        entry.major = fields.number(block[329:337])
        entry.minor = fields.number(block[337:345])
    return entry


def _apply_pax(entry: Entry, records: list[tuple[bytes, bytes]], size: int) -> int:
    """Change `entry` as the pax records say, the last of a key counting; returns the size of what is stored.

    An empty value leaves the header's, as POSIX has it; extended attributes alone may be empty.
    """
    for key, value in records:
        if key.startswith(_XATTR):
            entry.xattrs[_text(key[len(_XATTR) :])] = value
        elif not value:
            continue
        elif key == b"path":
            entry.name = _without_nul(value)
        elif key == b"linkpath":
            entry.link = _without_nul(value)
        elif key == b"mtime":
            entry.mtime = fields.pax_time(value)
        elif key == b"uid":
            entry.uid = fields.decimal(value, "user id")
        elif key == b"gid":
            entry.gid = fields.decimal(value, "group id")
        elif key == b"size":
            size = fields.decimal(value, "size")
            if not 0 <= size <= _SIZE_MAX:
                raise TarError(f"invalid size {size}")
    return size


def _without_nul(value: bytes) -> bytes:
    if b"\0" in value:
        raise TarError("a name with a NUL")
    return value


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _show(name: bytes) -> str:
    """A name of the archive for a message: quoted, and not endless."""
    return repr(name[:200].decode("utf-8", "backslashreplace"))
