"""The work for an archive grows with its size, and no faster: counted in steps of the interpreter, not in seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mooraged.differ.extract import Extractor
from mooraged.differ.limits import Limits
from mooraged.differ.tar.reader import Reader
from mooraged.differ.whiteouts import OverlayWhiteouts, PlainWhiteouts
from support.tars import Member, archive, entry, folder, link, pax, symlink

SMALL, LARGE = 100, 400
PARTS = ("mooraged/differ", "moorage_api/linux")


def _deep(count: int) -> list[Member]:
    """Folders within each other, in groups of ten, each group filled again and again."""
    return [entry("/".join(f"d{level}" for level in range(n % 10 + 1)) + f"/f{n}") for n in range(count)]


SHAPES: dict[str, Callable[[int], list[Member]]] = {
    "files in one folder": lambda n: [entry(f"d/{k}", data=b"x") for k in range(n)],
    "folders in one folder": lambda n: [folder(f"d/{k}") for k in range(n)],
    "folders without entries": lambda n: [entry(f"{k}/f") for k in range(n)],
    "files in deep folders": _deep,
    "one file again and again": lambda n: [entry("f", data=b"x") for _ in range(n)],
    "file and folder in turn": lambda n: [folder("x") if k % 2 else entry("x") for k in range(n)],
    "link and folder in turn": lambda n: [folder("x/y") if k % 2 else symlink("x", "y") for k in range(n)],
    "hard links to one file": lambda n: [entry("f"), *(link(f"l{k}", "f") for k in range(n))],
    "links to one link": lambda n: [folder("d"), symlink("l", "d"), *(entry(f"l/{k}") for k in range(n))],
    "whiteouts": lambda n: [entry(f"d/.wh.{k}") for k in range(n)],
    "whiteouts of own files": lambda n: [x for k in range(n) for x in (entry(f"d/{k}"), entry(f"d/.wh.{k}"))],
    "one opaque marker again and again": lambda n: [
        *(entry(f"d/{k}") for k in range(n)),
        *(entry("d/.wh..wh..opq") for _ in range(n)),
    ],
    "opaque markers between files": lambda n: [x for k in range(n) for x in (entry(f"d/{k}"), entry("d/.wh..wh..opq"))],
    "opaque markers within each other": lambda n: [
        x for k in range(n) for x in (entry(f"a/b/c/{k}"), entry("a/.wh..wh..opq"), entry("a/b/.wh..wh..opq"))
    ],
}


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def steps(work: Callable[[], None]) -> int:
    """How many lines of the differ's code `work` runs through."""
    count = 0

    def line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        return line if any(part in frame.f_code.co_filename for part in PARTS) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def extract(root: Path, data: bytes, overlay: bool) -> None:
    root.mkdir()
    extractor = Extractor(str(root), OverlayWhiteouts() if overlay else PlainWhiteouts(), Limits())
    reader = Reader()
    try:
        for event in reader.receive(data):
            extractor.take(event)
        reader.finish()
        extractor.finish()
    finally:
        extractor.close()


def grows_with_its_size(small: int, large: int) -> bool:
    return SMALL < large <= small * (LARGE / SMALL) * 1.25


@pytest.mark.parametrize("overlay", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_extraction(tmp_path: Path, shape: str, overlay: bool) -> None:
    counts = []
    for size in (SMALL, LARGE):
        data = archive(*SHAPES[shape](size))
        counts.append(steps(lambda: extract(tmp_path / str(size), data, overlay)))  # noqa: B023 (called at once)
    assert grows_with_its_size(*counts), counts


def _sparse_map(count: int) -> bytes:
    numbers = ",".join(f"{2 * k},1" for k in range(count))
    size = b"%d" % (2 * count)
    return pax((b"GNU.sparse.size", size), (b"GNU.sparse.map", numbers.encode())) + _file(count)


def _file(size: int) -> bytes:
    info, data = entry("f", data=bytes(size))
    return archive((info, data))


READ: dict[str, Callable[[int], bytes]] = {
    "one large file": lambda n: _file(n * 512),
    "records": lambda n: pax(*[(b"SCHILY.xattr.user.%d" % k, b"v") for k in range(n)]) + _file(1),
    "extended headers without an entry": lambda n: pax((b"comment", b"x")) * n + _file(1),
    "a sparse map": _sparse_map,
}


@pytest.mark.parametrize("shape", READ)
@pytest.mark.parametrize("chunk", [512, 100_000])
def test_reading(shape: str, chunk: int) -> None:
    def read(data: bytes) -> None:
        reader = Reader()
        for start in range(0, len(data), chunk):
            list(reader.receive(data[start : start + chunk]))
        reader.finish()

    counts = [steps(lambda size=size: read(READ[shape](size))) for size in (SMALL * 5, LARGE * 5)]  # type: ignore[misc]
    assert grows_with_its_size(*counts), counts
