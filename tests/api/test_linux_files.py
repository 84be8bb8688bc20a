"""Bytes into files."""

from __future__ import annotations

import array
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.linux.files import PIECE, write_at


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
def test_all_bytes_are_written_to_their_place(fd: int, size: int) -> None:
    data = os.urandom(size)
    write_at(fd, data, 7)
    assert os.pread(fd, size + 100, 7) == data
    assert os.fstat(fd).st_size == (size + 7 if size else 0)


def test_views_are_taken_by_their_bytes(fd: int) -> None:
    numbers = array.array("Q", range(PIECE // 4))
    write_at(fd, memoryview(numbers), 0)
    assert os.pread(fd, 4 * PIECE, 0) == numbers.tobytes()


def test_a_disk_that_takes_no_more_is_told_of() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space"):
        write_at(full, b"x", 0)
    os.close(full)
