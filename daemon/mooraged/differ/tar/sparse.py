"""Sparse files: which parts of a file an archive holds, in GNU's old format and in pax 0.0, 0.1 and 1.0.

Source: the GNU tar manual, appendix "Storing sparse files".
"""

from __future__ import annotations

from mooraged.differ.tar import fields
from mooraged.differ.tar.events import LimitError, TarError

BLOCK = 512
_REGIONS_MAX = 1 << 18
# The longest number in a map of pax 1.0, as Go and GNU tar have it: a line beyond is no number.
_LINE_MAX = 21

Regions = list[tuple[int, int]]
"""(offset, length) of each part that is stored, in order."""


def old_gnu_map(block: bytes) -> tuple[Regions, bool]:
    """The regions in a header of type `S`, and whether extension blocks follow."""
    return _slots(block[386:482]), bool(block[482])


def old_gnu_extension(block: bytes) -> tuple[Regions, bool]:
    """The regions in one extension block, and whether another follows."""
    return _slots(block[:504]), bool(block[504])


def old_gnu_size(block: bytes) -> int:
    """The size of the file, holes included, in a header of type `S`."""
    return fields.number(block[483:495])


def pax_0_map(records: list[tuple[bytes, bytes]]) -> Regions | None:
    """The regions that pax records of version 0.0 or 0.1 give; None where there are none."""
    numbers: list[int] = []
    seen = False
    for key, value in records:
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            expected = b"GNU.sparse.numbytes" if len(numbers) % 2 else b"GNU.sparse.offset"
            if key != expected:
                raise TarError("invalid sparse map: offsets and lengths do not alternate")
            numbers.append(fields.decimal(value, "sparse map"))
        elif key == b"GNU.sparse.map":
            numbers = [fields.decimal(part, "sparse map") for part in value.split(b",")] if value else []
        elif key == b"GNU.sparse.numblocks":
            pass
        else:
            continue
        seen = True
    return _pairs(numbers) if seen else None


class Map1:
    """The map of pax 1.0, which stands before the data: a count, then offsets and lengths, a number a line, padded to
    a block. `feed` takes one block at a time and is true when the map is complete."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._rest = b""

    def feed(self, block: bytes) -> bool:
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            self._numbers.append(fields.decimal(line, "sparse map"))
            wanted = 1 + 2 * self._count()
            if len(self._numbers) == wanted:
                return True
        if len(self._rest) > _LINE_MAX:
            raise TarError("invalid sparse map: a number is too long")
        return False

    @property
    def regions(self) -> Regions:
        return _pairs(self._numbers[1:])

    def _count(self) -> int:
        count = self._numbers[0]
        if not 0 <= count <= _REGIONS_MAX:
            raise LimitError(f"sparse map of {count} regions: at most {_REGIONS_MAX}")
        return count


def check_count(regions: Regions) -> None:
    """`LimitError` for more regions than any file that was not made to do harm."""
    if len(regions) > _REGIONS_MAX:
        raise LimitError(f"sparse map of {len(regions)} regions: at most {_REGIONS_MAX}")


def check(regions: Regions, size: int, stored: int) -> Regions:
    """`regions` without empty ones, if they are in order, within the file, and add up to what is stored."""
    check_count(regions)
    end = 0
    total = 0
    for offset, length in regions:
        if offset < end or length < 0:
            raise TarError("invalid sparse map: regions overlap or are out of order")
        end = offset + length
        total += length
    if end > size or total != stored:
        raise TarError("invalid sparse map: it does not agree with the sizes")
    return [region for region in regions if region[1]]


def _slots(area: bytes) -> Regions:
    regions: Regions = []
    for start in range(0, len(area), 24):
        if not area[start]:
            break
        regions.append((fields.number(area[start : start + 12]), fields.number(area[start + 12 : start + 24])))
    return regions


def _pairs(numbers: list[int]) -> Regions:
    if len(numbers) % 2:
        raise TarError("invalid sparse map: an offset without a length")
    return list(zip(numbers[::2], numbers[1::2], strict=True))
