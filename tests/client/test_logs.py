"""Log files in the CRI's format: reading, tails, and following over rotation to the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from moorage import logs, times
from moorage_api.errors import InvalidArgument, NotFound
from support.descriptors import none_left

SECOND = 10**9


def record(number: int, text: str = "", *, stream: str = "stdout", tag: str = "F") -> str:
    return f"2026-01-01T00:00:{number % 60:02d}.{number:09d}Z {stream} {tag} {text or f'line {number}'}\n"


def texts(records: list[logs.Record]) -> list[str]:
    return [each.text.decode() for each in records]


def test_a_record_is_read() -> None:
    found = logs.parse_record(b"2026-01-01T00:00:01.5Z stderr P two  words ")
    assert found == logs.Record("2026-01-01T00:00:01.5Z", "stderr", True, b"two  words ")
    assert found.output == b"two  words "
    assert logs.parse_record(b"2026-01-01T00:00:01.5Z stdout F ").output == b"\n"


@pytest.mark.parametrize("line", [b"", b"text", b"2026-01-01T00:00:01Z stdin F x", b"2026-01-01T00:00:01Z stdout F"])
def test_what_is_no_record_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidArgument):
        logs.parse_record(line)


def test_spoilt_lines_are_passed_over_and_unfinished_ones_wait(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(record(1) + "spoilt\0\n" + record(2) + record(3)[:-1])
    log = logs.LogFile(str(path))
    assert texts(list(log.read())) == ["line 1", "line 2"]
    with path.open("a") as file:
        file.write("!\n")
    assert texts(list(log.read())) == ["line 3!"]
    log.close()


@pytest.mark.parametrize("count", [0, 1, 3, 999, 1000, 5000])
def test_the_tail_is_so_many_lines_however_long_they_are(tmp_path: Path, count: int) -> None:
    path = tmp_path / "0.log"
    lines = [f"{number} " + "x\r" * (number * 7919 % 3000) for number in range(1000)]
    path.write_text("".join(record(number, line) for number, line in enumerate(lines)), newline="")
    assert texts(list(logs.read(str(path), tail=count))) == (lines[-count:] if count else [])


def test_pieces_of_a_line_count_as_one(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(record(1) + record(2, "a", tag="P") + record(3, "b", tag="P") + record(4, "c") + record(5))
    assert texts(list(logs.read(str(path), tail=2))) == ["a", "b", "c", "line 5"]


def test_a_line_without_an_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(record(1) + record(2) + record(3, "a", tag="P") + record(4, "b", tag="P"))
    assert texts(list(logs.read(str(path), tail=2))) == ["line 2", "a", "b"]
    assert texts(list(logs.read(str(path), tail=1))) == ["a", "b"]
    assert texts(list(logs.read(str(path), tail=0))) == []


def test_a_tail_of_one_endless_line(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(record(1) + record(2, "y" * 1_000_000))
    assert texts(list(logs.read(str(path), tail=1))) == ["y" * 1_000_000]


def test_since_leaves_out_what_is_older(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text("".join(map(record, range(10))))
    since = times.parse_time("2026-01-01T00:00:07Z")
    assert texts(list(logs.read(str(path), since=since))) == ["line 7", "line 8", "line 9"]


def test_no_log_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no log"):
        list(logs.read(str(tmp_path / "none")))


async def test_following_misses_nothing_over_rotation(tmp_path: Path) -> None:
    """A writer that rotates its file every 100 lines, as a kubelet would have it; every line arrives, in order."""
    path = tmp_path / "0.log"
    path.write_text("")
    ended = asyncio.Event()
    total = 2000

    async def write() -> None:
        file = path.open("a")
        for number in range(total):
            file.write(record(number))
            file.flush()
            if number % 400 == 399:
                path.rename(tmp_path / f"0.log.{number}")
                file.write(record(number, f"late {number}"))
                file.flush()
                await asyncio.sleep(0.15)
                file.close()
                file = path.open("a")
                await asyncio.sleep(0.15)
            elif number % 50 == 0:
                await asyncio.sleep(0.001)
        file.close()
        ended.set()

    writer = asyncio.create_task(write())
    found = [each async for each in logs.follow(str(path), ended)]
    await writer
    plain = [text for text in texts(found) if not text.startswith("late")]
    assert plain == [f"line {number}" for number in range(total)]
    assert len(found) == total + 5


async def test_following_begins_at_the_tail_and_ends_with_the_container(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text("".join(map(record, range(10))))
    ended = asyncio.Event()
    ended.set()
    assert texts([each async for each in logs.follow(str(path), ended, tail=2)]) == ["line 8", "line 9"]


async def test_following_leaves_no_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(record(1))
    with none_left():
        following = logs.follow(str(path), asyncio.Event())
        assert (await anext(following)).text == b"line 1"
        await following.aclose()
