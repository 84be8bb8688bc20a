"""Plug the holes in the allocators of the zygote, so that what a shim allocates lies together.

Imports leave free blocks all over the heap. A child that fills them copies a page for each; one that finds none gets
fresh pages, and few of them. Blocks that plug are never written again, so they stay shared, or are not even there.
"""

from __future__ import annotations

import ctypes
from ctypes import c_size_t, c_void_p

# Python's small-object allocator: blocks by multiples of 16 bytes in pools of 16 KiB with a header of 48 (obmalloc.c).
_SMALL_MAX = 512
_POOL = 16 << 10
_POOL_HEADER = 48
_BYTES_HEADER = 33
_LIMIT = 1 << 16
# So many blocks in a row from the start of a pool: it is a fresh one.
_ROW = 8

_libc = ctypes.CDLL(None)
_libc.malloc.restype = c_void_p
_libc.malloc.argtypes = [c_size_t]
_libc.free.argtypes = [c_void_p]
_kept: list[object] = []


class _MallInfo(ctypes.Structure):
    """struct mallinfo2 (mallinfo(3)); `keepcost` is the size of the topmost free block."""

    _fields_ = tuple(
        (name, c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def plug() -> None:
    """Use up every free block, of both allocators. Call it again after more imports."""
    _kept.extend(_plug_small(size) for size in range(48, _SMALL_MAX + 16, 16))
    _libc.mallinfo2.restype = _MallInfo
    for size in (1 << 16, 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11, 1 << 10, 768, 528):
        _plug_large(size)


def _plug_small(size: int) -> list[bytes]:
    """Objects of one block size, until they come from a pool that nobody used before."""
    blocks: list[bytes] = []
    row = 0
    while row < _ROW and len(blocks) < _LIMIT:
        block = bytes(size - _BYTES_HEADER)
        offset = id(block) % _POOL
        if offset == _POOL_HEADER:
            row = 1
        elif row and offset == _POOL_HEADER + row * size:
            row += 1
        else:
            row = 0
        blocks.append(block)
    return blocks


def _plug_large(size: int) -> None:
    """Blocks of the C library's allocator, until one is cut from the top of the heap."""
    while True:
        top = _libc.mallinfo2().keepcost
        block = _libc.malloc(size)
        if _libc.mallinfo2().keepcost != top:
            _libc.free(block)
            return
