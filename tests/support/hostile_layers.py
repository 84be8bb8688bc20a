"""Layers that were made to do harm.

Each case says which error it must end with; none may leave anything, or take more than its caps.
"""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import zstandard

from moorage_api.errors import InvalidArgument, MoorageError, ResourceExhausted
from moorage_api.oci import image as documents
from support.tars import archive, block, entry, folder, link, node, padded, pax, symlink

ENTRIES_MAX = 3000
SIZE_MAX = 64 << 20
RATIO_MAX = 100
RATIO_FLOOR = 8 << 20
CONFIGURATION = f"""
[plugins."io.containerd.differ.v1.walking"]
max_entries = {ENTRIES_MAX}
max_size = {SIZE_MAX}
max_ratio = {RATIO_MAX}
ratio_floor = {RATIO_FLOOR}

[plugins."io.containerd.transfer.v1.local"]
progress_timeout = 2.0
"""
"""Caps that are quickly reached."""

CLIMBS = "climbs above the root"
Layers = Callable[[], list[bytes]]


@dataclass(frozen=True)
class BadLayer:
    """Layers, uncompressed unless `media_type` says otherwise, of which the last is refused with `error`."""

    layers: Layers
    error: type[MoorageError]
    why: str
    media_type: str = documents.OCI_LAYER


def _tars(*archives: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Layers:
    return lambda: [archive(*entries) for entries in archives]


def _raw(*parts: bytes) -> Layers:
    return lambda: [b"".join(parts)]


def _zip_of_zips() -> bytes:
    data = bytes(1 << 20)
    for _ in range(3):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as outer:
            for number in range(8):
                outer.writestr(f"{number}.zip", data)
        data = packed.getvalue()
    return data


def _bomb(compress: Callable[[bytes], bytes], size: int) -> Layers:
    """A file of zeros, after which comes more than any cap allows."""
    return lambda: [compress(block(b"zeros", size=b"%011o" % size) + bytes(size))]


def _squeezed(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


def _many(count: int) -> Layers:
    return lambda: [b"".join(block(b"%d" % number) for number in range(count))]


_GZIP, _ZSTD = documents.OCI_LAYER_GZIP, documents.OCI_LAYER_ZSTD
_FILE = archive(entry("file", data=random.Random(1).randbytes(3000)))
_REAL, _MAP = (b"GNU.sparse.realsize", b"1000"), (b"GNU.sparse.map", b"0,512")
_TO_OUTSIDE = "../../../../outside"

BAD_LAYERS: Mapping[str, BadLayer] = {
    "truncated gzip": BadLayer(lambda: [_squeezed(_FILE)[:-9]], InvalidArgument, "damaged", _GZIP),
    "truncated zstd": BadLayer(lambda: [zstandard.compress(_FILE)[:-3]], InvalidArgument, "stops short", _ZSTD),
    "garbage after gzip": BadLayer(lambda: [_squeezed(_FILE) + b"garbage"], InvalidArgument, "damaged", _GZIP),
    "damaged gzip": BadLayer(lambda: [_squeezed(_FILE)[:-8] + bytes(8)], InvalidArgument, "damaged", _GZIP),
    "truncated archive": BadLayer(_raw(_FILE[:1200]), InvalidArgument, "stops short within 'file'"),
    "gzip bomb": BadLayer(_bomb(_squeezed, 48 << 20), ResourceExhausted, "bytes uncompressed", _GZIP),
    "zstd bomb": BadLayer(_bomb(zstandard.compress, 48 << 20), ResourceExhausted, "bytes uncompressed", _ZSTD),
    "bomb of many gzip members": BadLayer(
        lambda: [_squeezed(block(b"zeros", size=b"%011o" % (48 << 20))) + _squeezed(bytes(1 << 20)) * 48],
        ResourceExhausted,
        "bytes uncompressed",
        _GZIP,
    ),
    "gzip of gzip": BadLayer(lambda: [_squeezed(_squeezed(_FILE))], InvalidArgument, "not a tar archive", _GZIP),
    "zip of zips": BadLayer(lambda: [_zip_of_zips()], InvalidArgument, "not a tar archive"),
    "too many entries": BadLayer(_many(ENTRIES_MAX + 1), ResourceExhausted, f"more than {ENTRIES_MAX} entries"),
    "climbing path": BadLayer(_tars([entry(f"{_TO_OUTSIDE}/secret", data=b"evil")]), InvalidArgument, CLIMBS),
    "path that climbs later": BadLayer(_tars([entry("a/../../b", data=b"evil")]), InvalidArgument, CLIMBS),
    "absolute path that climbs": BadLayer(_tars([folder("/../outside")]), InvalidArgument, CLIMBS),
    "whiteout that climbs": BadLayer(_tars([entry("../.wh.secret")]), InvalidArgument, CLIMBS),
    "whiteout of dot dot": BadLayer(_tars([entry("a/.wh...")]), InvalidArgument, "no name"),
    "hard link that climbs": BadLayer(_tars([link("x", f"{_TO_OUTSIDE}/secret")]), InvalidArgument, CLIMBS),
    "absolute hard link": BadLayer(_tars([link("x", "/etc/hostname")]), InvalidArgument, "is not there"),
    "hard link through a link": BadLayer(
        _tars([symlink("out", _TO_OUTSIDE), link("x", "out/secret")]), InvalidArgument, "is not there"
    ),
    "hard link through a lower layer's link": BadLayer(
        _tars([symlink("out", _TO_OUTSIDE)], [link("x", "out/secret")]), InvalidArgument, "is not there"
    ),
    "hard link to a folder": BadLayer(_tars([folder("d"), link("x", "d")]), InvalidArgument, "'x'"),
    "links in a ring": BadLayer(
        _tars([symlink("a", "b"), symlink("b", "a"), entry("a/x", data=b"1")]), InvalidArgument, "'a/x'"
    ),
    "file as a folder": BadLayer(_tars([entry("a", data=b"1"), entry("a/b")]), InvalidArgument, "'a/b'"),
    "name of 10,000 bytes": BadLayer(_tars([entry("n" * 10_000)]), InvalidArgument, "a path of 10000 bytes"),
    "path of 10,000 bytes": BadLayer(_tars([entry("n/" * 5000)]), InvalidArgument, "bytes: at most 4095"),
    "deep path": BadLayer(_tars([entry("d/" * 1000)]), InvalidArgument, "1000 names"),
    "link target of 10,000 bytes": BadLayer(_tars([symlink("l", "t" * 10_000)]), InvalidArgument, "'l'"),
    "device out of range": BadLayer(
        _raw(block(kind=b"3", major=(329, b"\x80\0\0\xff\xff\xff\xff\xff"))), InvalidArgument, "out of range"
    ),
    "negative owner": BadLayer(_tars([entry("x", pax_headers={"uid": "-1"})]), InvalidArgument, "out of range"),
    "huge owner": BadLayer(_raw(block(uid=(108, b"\x80\0\0\1\0\0\0\0"))), InvalidArgument, "out of range"),
    "negative size": BadLayer(_raw(block(size=b"\xff" * 12)), InvalidArgument, "invalid size -1"),
    "negative size in a record": BadLayer(_raw(pax((b"size", b"-5")), block()), InvalidArgument, "invalid size -5"),
    "huge size": BadLayer(_raw(block(size=b"\x80" + b"\0" * 3 + b"\x7f" * 8)), ResourceExhausted, "at most"),
    "size beyond all numbers": BadLayer(_raw(block(size=b"\x80" + b"\xff" * 11)), InvalidArgument, "invalid size"),
    "huge sparse file": BadLayer(
        _raw(pax((b"GNU.sparse.size", b"9" * 18), _MAP), block(size=b"00000001000"), bytes(512)),
        ResourceExhausted,
        "at most",
    ),
    "sparse map that disagrees": BadLayer(
        _raw(pax(_REAL, (b"GNU.sparse.map", b"0,5")), block(size=b"00000001000"), bytes(512)),
        InvalidArgument,
        "does not agree",
    ),
    "sparse file renamed outside": BadLayer(
        _raw(pax(_REAL, _MAP, (b"GNU.sparse.name", b"../x")), block(size=b"00000001000"), bytes(512)),
        InvalidArgument,
        CLIMBS,
    ),
    "records that contradict the header": BadLayer(
        _raw(pax((b"size", b"5")), block(size=b"00000002000"), b"x" * 1024), InvalidArgument, "checksum"
    ),
    "records that contradict each other": BadLayer(
        _raw(pax((b"path", b"good"), (b"path", b"../bad")), block()), InvalidArgument, CLIMBS
    ),
    "record of a negative length": BadLayer(
        _raw(block(b"p", b"x", b"00000000012"), padded(b"-9 path=a\n")), InvalidArgument, "invalid pax header"
    ),
    "records without end": BadLayer(_raw(block(b"p", b"x", b"77777777777")), ResourceExhausted, "extended header"),
    "unknown kind of entry": BadLayer(_raw(block(kind=b"Z")), InvalidArgument, "unknown type"),
    "no archive at all": BadLayer(_raw(b"#!/bin/sh\n" * 100), InvalidArgument, "not a tar archive"),
}

CONFINED: Mapping[str, tuple[Layers, str]] = {
    "absolute path": (_tars([entry("/outside/secret", data=b"evil")]), "outside/secret"),
    "through a link of the same layer": (
        _tars([symlink("out", _TO_OUTSIDE), entry("out/secret", data=b"evil")]),
        "outside/secret",
    ),
    "through a link of a lower layer": (
        _tars([symlink("out", _TO_OUTSIDE)], [entry("out/secret", data=b"evil")]),
        "out",
    ),
    "through a link of a link": (
        _tars([symlink("a", "/"), symlink("b", "a/../outside")], [entry("b/secret", data=b"evil")]),
        "b",
    ),
    "whiteout through a link": (_tars([symlink("out", _TO_OUTSIDE)], [entry("out/.wh.secret")]), "out"),
    "opaque marker through a link": (_tars([symlink("out", _TO_OUTSIDE)], [entry("out/.wh..wh..opq")]), "out"),
    "a file in place of a link": (
        _tars([symlink("l", f"{_TO_OUTSIDE}/secret")], [entry("l", data=b"evil")]),
        "l",
    ),
    "a link's owner and mode": (
        _tars([symlink("l", f"{_TO_OUTSIDE}/secret", uid=7, mode=0o777), link("h", "l")]),
        "h",
    ),
    "the host's disk as a device": (_tars([node("disk", tarfile.BLKTYPE, 254, 0, mode=0o666)]), "disk"),
}
"""Archives that are accepted, since what they name lies within the root, and a path that they make there."""
