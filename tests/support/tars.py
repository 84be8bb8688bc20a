"""Tar archives of any shape: entries through `tarfile`, and headers byte by byte for what `tarfile` would not write."""

from __future__ import annotations

import io
import tarfile

Member = tuple[tarfile.TarInfo, bytes]


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object) -> Member:
    """An entry with `fields` of `TarInfo`."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    info.size = len(data)
    return info, data


def folder(name: str, **fields: object) -> Member:
    return entry(name, tarfile.DIRTYPE, **fields)


def link(name: str, target: str, **fields: object) -> Member:
    return entry(name, tarfile.LNKTYPE, linkname=target, **fields)


def symlink(name: str, target: str, **fields: object) -> Member:
    return entry(name, tarfile.SYMTYPE, linkname=target, **fields)


def node(name: str, kind: bytes, major: int = 0, minor: int = 0, **fields: object) -> Member:
    """A device or a fifo."""
    return entry(name, kind, devmajor=major, devminor=minor, **fields)


def archive(*entries: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=format) as writer:
        for info, data in entries:
            writer.addfile(info, io.BytesIO(data))
    return output.getvalue()


def block(name: bytes = b"file", kind: bytes = b"0", size: bytes = b"00000000000", **at: tuple[int, bytes]) -> bytes:
    """A ustar header block with `at` laid over it: any name, to an offset and the bytes there."""
    header = bytearray(512)
    header[: len(name)] = name
    header[100:107] = header[108:115] = header[116:123] = b"0000644"
    header[124 : 124 + len(size)] = size
    header[136:147] = b"00000000000"
    header[148:156] = b" " * 8
    header[156:157] = kind
    header[257:265] = b"ustar\x0000"
    for offset, data in at.values():
        header[offset : offset + len(data)] = data
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    """A pax extended header with its records."""
    lines = b""
    for key, value in records:
        rest = len(key) + len(value) + 3
        length = rest + len(str(rest))
        length = rest + len(str(length))
        lines += b"%d %s=%s\n" % (length, key, value)
    return block(b"pax", b"x", b"%011o" % len(lines)) + padded(lines)
