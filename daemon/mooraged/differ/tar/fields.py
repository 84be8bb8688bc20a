"""Fields of a tar header block, and the records of a pax header."""

from __future__ import annotations

import re
from functools import lru_cache
from zlib import adler32

from mooraged.differ.tar.events import TarError

_DECIMAL = re.compile(rb"-?[0-9]{1,20}")
_TIME = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
_RECORD_LENGTH_DIGITS = 8
_NO_HEADER = "wrong checksum of a header: not a tar archive, or a damaged one"
_HALF = 256
_LOW = 0xFFFF


def number(field: bytes) -> int:
    """A numeric field: octal digits between blanks and NULs, or base-256 as GNU tar writes large and negative ones."""
    digits = field.rstrip(b" \0")
    if not digits.isdigit():
        if field[0] & 0x80:
            return _base_256(field)
        digits = digits.lstrip(b" \0").partition(b"\0")[0]
        if not digits:
            return 0
        if not digits.isdigit():
            raise TarError(f"invalid number {field!r}")
    try:
        return int(digits, 8)
    except ValueError as error:
        raise TarError(f"invalid number {field!r}") from error


# Times are the same for many entries of an archive.
repeated_number = lru_cache(1024)(number)


def text(field: bytes) -> bytes:
    """A text field: up to its first NUL."""
    return field.partition(b"\0")[0]


@lru_cache(1024)
def owner(field: bytes) -> tuple[int, int, int]:
    """Mode, user and group of a header: three fields in a row, the same for most entries of an archive."""
    return number(field[:8]) & 0o7777, number(field[8:16]), number(field[16:24])


@lru_cache(4096)
def _total(field: bytes) -> int:
    """What all bytes of a block add up to, by the field of its checksum, which itself counts as blanks there."""
    try:
        return number(field) + sum(field) - 8 * ord(" ")
    except TarError:
        raise TarError(_NO_HEADER) from None


def check_sum(block: bytes) -> None:
    """`TarError` where the block's checksum is not what its bytes add up to, as unsigned or (old tars) signed ones."""
    total = _total(block[148:156])
    # The low half of an Adler-32 is one more than the sum of the bytes, modulo 65521: more than 256 bytes can come to.
    if (adler32(block[:_HALF]) & _LOW) + (adler32(block[_HALF:]) & _LOW) - 2 == total:
        return
    field = block[148:156]
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:])
    if signed + sum(field) != total:
        raise TarError(_NO_HEADER)


def pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records `LENGTH KEY=VALUE NEWLINE` of a pax extended header (POSIX.1-2001, pax, 4.18.3), in their order."""
    records: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + _RECORD_LENGTH_DIGITS)
        digits = data[position:space] if space > position else b""
        if not digits.isdigit():
            raise TarError(f"invalid pax header: no length at byte {position}")
        end = position + int(digits)
        if end > len(data) or end <= space + 1 or data[end - 1] != 0x0A:
            raise TarError(f"invalid pax header: wrong length at byte {position}")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not key or not equals or b"\0" in key:
            raise TarError(f"invalid pax header: no key at byte {position}")
        records.append((key, value))
        position = end
    return records


def decimal(value: bytes, what: str) -> int:
    """A decimal number of a pax record or a sparse map."""
    if _DECIMAL.fullmatch(value) is None:
        raise TarError(f"invalid {what}: {value[:40]!r}")
    return int(value)


def pax_time(value: bytes) -> int:
    """A time of a pax record, seconds with any number of decimals, in nanoseconds."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise TarError(f"invalid time: {value[:40]!r}")
    sign, seconds, fraction = match.groups()
    nanoseconds = int(seconds) * 1_000_000_000 + int((fraction or b"")[:9].ljust(9, b"0"))
    return -nanoseconds if sign else nanoseconds


def _base_256(field: bytes) -> int:
    """A two's complement number whose first bit, 1, is the mark of the format, and whose second is the sign."""
    value = int.from_bytes(field, "big")
    bits = len(field) * 8
    return value - (1 << bits) if field[0] & 0x40 else value - (1 << (bits - 1))
