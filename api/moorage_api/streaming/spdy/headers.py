"""Header blocks: name/value pairs, compressed with zlib and a dictionary of their own (SPDY/3, section 2.6.10).

All blocks of one direction are one zlib stream, so their order counts, and no block may be left out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

from moorage_api.streaming.spdy.errors import ProtocolError

HEADERS_MAX = 32 << 10
"""Bytes of an uncompressed block that are taken; what a client sends here has some tens."""

_LENGTH = struct.Struct(">I")

# The dictionary is these words, each behind its length, and then a text without lengths.
_WORDS = (
    *(
        "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age "
        "allow authorization cache-control connection content-base content-encoding content-language content-length "
        "content-location content-md5 content-range content-type date etag expect expires from host if-match "
        "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
        "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
        "user-agent vary via warning www-authenticate method get status"
    ).split(),
    *("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"),
)
_TEXT = (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    b"404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    b"Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    b"publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(_LENGTH.pack(len(word)) + word.encode() for word in _WORDS) + _TEXT


class Compressor:
    """The header blocks that one side sends."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(zdict=DICTIONARY)

    def block(self, headers: Mapping[str, str]) -> bytes:
        """The next block."""
        parts = [_LENGTH.pack(len(headers))]
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                parts += (_LENGTH.pack(len(text)), text)
        return self._stream.compress(b"".join(parts)) + self._stream.flush(zlib.Z_SYNC_FLUSH)


class Decompressor:
    """The header blocks that the other side sends."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zdict=DICTIONARY)

    def headers(self, block: bytes) -> dict[str, str]:
        """The pairs of the next block; several values of a name are joined by NUL. `ProtocolError` for a block that is
        broken, or larger than `HEADERS_MAX`."""
        try:
            plain = self._stream.decompress(block, HEADERS_MAX)
        except zlib.error as error:
            raise ProtocolError(f"header block: {error}") from error
        if self._stream.unconsumed_tail:
            raise ProtocolError(f"header block of more than {HEADERS_MAX} bytes")
        try:
            return dict(_pairs(plain))
        except (struct.error, UnicodeDecodeError) as error:
            raise ProtocolError(f"header block: {error}") from error


def _pairs(plain: bytes) -> Iterator[tuple[str, str]]:
    (count,) = _LENGTH.unpack_from(plain)
    position = _LENGTH.size
    for _ in range(count):
        name, position = _text(plain, position)
        value, position = _text(plain, position)
        yield name, value


def _text(plain: bytes, position: int) -> tuple[str, int]:
    (length,) = _LENGTH.unpack_from(plain, position)
    start = position + _LENGTH.size
    if start + length > len(plain):
        raise ProtocolError("header block ends within a text")
    return plain[start : start + length].decode(), start + length
