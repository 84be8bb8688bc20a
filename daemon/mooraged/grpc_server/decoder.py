"""HPACK's decoder (RFC 7541), on the tables and the Huffman code of the library `hpack`.

The library's own decoder takes 5 to 10 µs a field, most of it to cut and to log. Clients in Go send a block that changes the
dynamic table with each call, since they index its timeout: no block could be remembered, and to read it would take as long as
all else that a small call needs.
"""

from __future__ import annotations

from hpack import HPACKDecodingError, InvalidTableSizeError, OversizedHeaderListError
from hpack.hpack import decode_integer
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

# No integer of a block that is accepted is longer, in bytes.
_INTEGER_MAX = 16


class HeaderDecoder:
    """Reads the header blocks of one connection, in the order in which they came. After an error the state is lost."""

    def __init__(self, list_size: int) -> None:
        """`list_size` is the largest header list that is read, as RFC 9113 counts it."""
        self.changes = 0  # of the dynamic table: while there are none, the same bytes mean the same
        self._table = HeaderTable()
        self._list_size = list_size

    def decode(self, block: bytes) -> list[Field]:
        """All fields of a block; `hpack.HPACKError` where it is malformed."""
        fields: list[Field] = []
        position, size, room = 0, len(block), self._list_size
        while position < size:
            first = block[position]
            if 0x80 < first < 0xFF:  # a reference in one byte
                field = self._table.get_by_index(first & 0x7F)
                position += 1
            elif first & 0x80:
                index, position = _integer(block, position, 7)
                field = self._table.get_by_index(index)
            elif first & 0x40:
                field, position = self._literal(block, position, 6)
                self._table.add(*field)
                self.changes += 1
            elif first & 0x20:
                position = self._resize(block, position, bool(fields))
                continue
            else:
                field, position = self._literal(block, position, 4)
            room -= len(field[0]) + len(field[1]) + 32
            if room < 0:
                raise OversizedHeaderListError(f"a header list larger than {self._list_size} bytes")
            fields.append(field)
        return fields

    def _literal(self, block: bytes, position: int, bits: int) -> tuple[Field, int]:
        """A field whose value is in the block, and its name or a reference to that."""
        index, position = _integer(block, position, bits)
        if index:
            name = self._table.get_by_index(index)[0]
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        return (name, value), position

    def _resize(self, block: bytes, position: int, late: bool) -> int:
        if late:
            raise HPACKDecodingError("a change of the table's size after a field")
        size, position = _integer(block, position, 5)
        if size > HeaderTable.DEFAULT_SIZE:
            raise InvalidTableSizeError(f"a table of {size} bytes")
        self._table.maxsize = size
        self.changes += 1
        return position


def _integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    number, consumed = decode_integer(block[position : position + _INTEGER_MAX], bits)
    return number, position + consumed


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    length, begin = _integer(block, position, 7)
    end = begin + length
    if end > len(block):
        raise HPACKDecodingError("a string beyond its block")
    data = block[begin:end]
    return decode_huffman(data) if block[position] & 0x80 else data, end
