"""Bytes that come before their turn: kept at their place, also over a crash, and part of the blob in the end."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import cast

import pytest

from moorage_api.errors import FailedPrecondition, OutOfRange
from moorage_content import LocalContentStore, holes
from moorage_content.writer import LocalWriter

MIB = 1 << 20
SIZE = 9 * MIB + 5000
# A zero next to a hole counts as none of the bytes.
DATA = random.Random(1).randbytes(SIZE).replace(b"\0", b"\1")
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "content"


def opened(folder: Path) -> LocalWriter:
    """A writer of the ingest by a store that has just started: it knows no more than the files say."""
    return cast(LocalWriter, LocalContentStore(folder).writer("ref", SIZE, DIGEST))


def put(writer: LocalWriter, start: int, end: int) -> None:
    if start == writer.status().offset:
        writer.write(DATA[start:end])
    else:
        writer.write_ahead(DATA[start:end], start)


def test_bytes_count_when_those_before_them_are_there(folder: Path) -> None:
    with opened(folder) as writer:
        put(writer, 3 * MIB + 7, SIZE)
        assert writer.status().offset == 0
        put(writer, 1, MIB)
        assert writer.ahead == [(1, MIB), (3 * MIB + 7, SIZE)]
        put(writer, 0, 1)
        assert writer.status().offset == MIB
        writer.write(DATA[MIB : 4 * MIB])  # over what is there
        assert (writer.status().offset, writer.ahead) == (SIZE, [])
        writer.commit(SIZE, DIGEST)
    assert LocalContentStore(folder).open(DIGEST).pread(SIZE, 0) == DATA


def test_after_a_crash_whole_chunks_are_found_again(folder: Path) -> None:
    with opened(folder) as writer:
        for start, end in ((0, 2 * MIB + 99), (4 * MIB, 6 * MIB), (7 * MIB + 1, 8 * MIB + 5000), (9 * MIB, SIZE)):
            put(writer, start, end)
    with opened(folder) as writer:
        assert writer.status().offset == 2 * MIB
        assert writer.ahead == [(4 * MIB, 6 * MIB), (9 * MIB, SIZE)]
        assert writer.digest() == f"sha256:{hashlib.sha256(DATA[: 2 * MIB]).hexdigest()}"
        put(writer, 2 * MIB, 4 * MIB)
        put(writer, 6 * MIB, 9 * MIB)
        writer.commit(SIZE, DIGEST)


@pytest.mark.parametrize("seed", range(8))
def test_any_order_with_crashes(folder: Path, seed: int) -> None:
    order = random.Random(seed)
    for _ in range(40):
        with opened(folder) as writer:
            ahead = writer.ahead or []
            covered = [(0, writer.status().offset), *ahead]
            gaps = [start for start in range(0, SIZE, MIB) if not any(a <= start < b for a, b in covered)]
            if not gaps:
                break
            for start in order.sample(gaps, min(len(gaps), 2)):
                if start >= writer.status().offset:
                    put(writer, start, min(start + MIB, SIZE))
    with opened(folder) as writer:
        writer.commit(SIZE, DIGEST)


def test_what_is_taken_back_is_gone(folder: Path) -> None:
    with opened(folder) as writer:
        put(writer, 0, MIB)
        put(writer, 5 * MIB, 6 * MIB)
        writer.truncate(MIB)
        assert writer.ahead == []
        put(writer, 5 * MIB, 6 * MIB)
        writer.commit(MIB, f"sha256:{hashlib.sha256(DATA[:MIB]).hexdigest()}")
    (blob,) = LocalContentStore(folder).walk()
    assert blob.size == MIB


def test_where_holes_are_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorage_content.store.keeps_holes", lambda _: False)
    with opened(folder) as writer:
        assert writer.ahead is None
        with pytest.raises(FailedPrecondition):
            writer.write_ahead(DATA, MIB)


def test_bytes_that_are_not_ahead(folder: Path) -> None:
    with opened(folder) as writer:
        put(writer, 0, MIB)
        with pytest.raises(OutOfRange):
            writer.write_ahead(DATA[:MIB], 0)


def test_ranges_are_joined() -> None:
    assert holes.add([(0, 2), (4, 6)], 2, 4) == [(0, 6)]
    assert holes.add([(0, 2), (8, 9)], 4, 6) == [(0, 2), (4, 6), (8, 9)]
