"""Fill the holes in Python's memory before a fork, so that a child's new objects lie side by side.

What a process loads and drops leaves free places all over its memory. A child takes them first, and each that it takes
gives it a page of its own (4 KiB) for an object of some bytes. So the parent takes them all, for good: they are in pages
that it has anyway. What the child allocates then is in pools of its own, a few pages in all.

Python's allocator (Objects/obmalloc.c) has a class of places for each multiple of 16 bytes up to 512, in aligned pools of
16 KiB; a fresh pool is used from its start, after a header of 48 bytes. Were another Python to do it otherwise, the
search ends at a bound, and no more than memory is lost.
"""

from __future__ import annotations

_ALIGNMENT = 16
_LARGEST = 512
_POOL = 16 << 10
_HEADER = 48
# Of one class: some thousand holes are what loading the shim leaves.
_MOST = 20_000
_BYTES_OVERHEAD = 33

_taken: list[object] = []


def fill_holes() -> None:
    """Take every free place of every class; called last before the forks, with the collector off."""
    for size in range(2 * _ALIGNMENT, _LARGEST + 1, _ALIGNMENT):
        _fill(size)


def _fill(size: int) -> None:
    """Until a fresh pool is met."""
    before = 0
    for number in range(_MOST):
        # Bytes of this size, or where they would be too large a whole number that is no small one.
        taken: object = bytes(size - _BYTES_OVERHEAD) if size > _BYTES_OVERHEAD + 1 else 1_000_000 + number
        _taken.append(taken)
        at = id(taken)
        if before % _POOL == _HEADER and at == before + size:
            return
        before = at
