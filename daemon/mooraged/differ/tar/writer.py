"""Writes the headers of a tar archive (POSIX.1-2001 pax): entries in, bytes out. The same entries give the same bytes."""

from __future__ import annotations

from mooraged.differ.tar.events import Entry, TarError, Type

BLOCK = 512
END = bytes(2 * BLOCK)
_NAME = 100
_ID_MAX = 0o7777777
_OCTAL_11_MAX = 0o77777777777
_FLAGS: dict[Type, bytes] = {
    Type.FILE: b"0",
    Type.LINK: b"1",
    Type.SYMLINK: b"2",
    Type.CHARACTER_DEVICE: b"3",
    Type.BLOCK_DEVICE: b"4",
    Type.FOLDER: b"5",
    Type.FIFO: b"6",
}


def header(entry: Entry) -> bytes:
    """The header of `entry`, with a pax header before it where ustar has no room. Times are cut to seconds, as builders
    and containerd do: layers with finer ones have been misread by older tools."""
    records = _records(entry)
    seconds = entry.mtime // 1_000_000_000
    block = _block(
        entry.name,
        _FLAGS[entry.type],
        mode=entry.mode,
        uid=entry.uid if entry.uid <= _ID_MAX else 0,
        gid=entry.gid if entry.gid <= _ID_MAX else 0,
        size=entry.size if entry.size <= _OCTAL_11_MAX else 0,
        mtime=seconds if 0 <= seconds <= _OCTAL_11_MAX else 0,
        link=entry.link,
        device=(entry.major, entry.minor),
    )
    if not records:
        return block
    data = b"".join(_record(key, value) for key, value in sorted(records.items()))
    name = b"PaxHeaders.0/" + entry.name.rstrip(b"/").rpartition(b"/")[2]
    return _block(name, b"x", mode=0o644, size=len(data)) + data + padding(len(data)) + block


def padding(size: int) -> bytes:
    """What follows `size` bytes of a file up to the next header."""
    return bytes(-size % BLOCK)


def _records(entry: Entry) -> dict[bytes, bytes]:
    """What ustar cannot say of `entry`."""
    records = {b"SCHILY.xattr." + key.encode("utf-8", "surrogateescape"): value for key, value in entry.xattrs.items()}
    if len(entry.name) > _NAME:
        records[b"path"] = entry.name
    if len(entry.link) > _NAME:
        records[b"linkpath"] = entry.link
    if entry.uid > _ID_MAX:
        records[b"uid"] = b"%d" % entry.uid
    if entry.gid > _ID_MAX:
        records[b"gid"] = b"%d" % entry.gid
    if entry.size > _OCTAL_11_MAX:
        records[b"size"] = b"%d" % entry.size
    seconds = entry.mtime // 1_000_000_000
    if not 0 <= seconds <= _OCTAL_11_MAX:
        records[b"mtime"] = b"%d" % seconds
    return records


def _record(key: bytes, value: bytes) -> bytes:
    """A pax record: its own length, which counts its own digits, then key and value."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _block(
    name: bytes,
    flag: bytes,
    *,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    if max(device) > _ID_MAX:
        raise TarError(f"device {device[0]}:{device[1]} does not fit a tar header")
    block = b"".join(
        (
            name[:_NAME].ljust(_NAME, b"\0"),
            b"%07o\0%07o\0%07o\0" % (mode, uid, gid),
            b"%011o\0%011o\0" % (size, mtime),
            b" " * 8,
            flag,
            link[:_NAME].ljust(_NAME, b"\0"),
            b"ustar\00000",
            bytes(64),
            b"%07o\0%07o\0" % device,
            bytes(167),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
