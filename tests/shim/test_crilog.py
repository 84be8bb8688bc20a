"""The CRI's log format, without a container."""

from __future__ import annotations

import os
import re
import resource
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_api.errors import FailedPrecondition, InvalidArgument, NotFound
from moorage_shim.stdio.crilog import MAX_LINE, Clock, Formatter, LogFile

AT = b"2016-10-06T00:17:09.669794202Z"


def text(*chunks: bytes) -> bytes:
    formatter = Formatter("stdout")
    pieces = [piece for chunk in chunks for piece in formatter.feed(chunk, AT)]
    return b"".join(pieces + formatter.finish(AT)).replace(AT, b"T")


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((b"a\n",), b"T stdout F a\n"),
        ((b"a\nb\n\n",), b"T stdout F a\nT stdout F b\nT stdout F \n"),
        ((b"a", b"b\n"), b"T stdout F ab\n"),
        ((b"a\nb",), b"T stdout F a\nT stdout P b\n"),
        ((), b""),
        ((b"x" * MAX_LINE + b"\n",), b"T stdout F " + b"x" * MAX_LINE + b"\n"),
        ((b"x" * MAX_LINE, b"\n"), b"T stdout F " + b"x" * MAX_LINE + b"\n"),
        ((b"x" * MAX_LINE + b"y\n",), b"T stdout P " + b"x" * MAX_LINE + b"\nT stdout F y\n"),
        (
            (b"x" * (2 * MAX_LINE) + b"\nz\n",),
            b"T stdout P " + b"x" * MAX_LINE + b"\nT stdout F " + b"x" * MAX_LINE + b"\nT stdout F z\n",
        ),
    ],
)
def test_entries(chunks: tuple[bytes, ...], expected: bytes) -> None:
    assert text(*chunks) == expected


@given(
    st.lists(st.integers(0, 3 * MAX_LINE) | st.integers(0, 30), max_size=8),
    st.lists(st.integers(0, 9 * MAX_LINE), max_size=8),
)
def test_the_lines_can_be_read_back(lengths: list[int], cuts: list[int]) -> None:
    """As a kubelet joins them: pieces marked P continue in the next entry."""
    data = b"".join(bytes([97 + i % 26]) * length + b"\n" for i, length in enumerate(lengths))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    back = b""
    for entry in text(*(data[a:b] for a, b in pairwise(edges))).split(b"\n")[:-1]:
        at, stream, tag, content = entry.split(b" ", 3)
        assert (at, stream) == (b"T", b"stdout")
        assert len(content) <= MAX_LINE
        back += content + (b"\n" if tag == b"F" else b"")
    assert back == data


def test_time() -> None:
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", Clock().timestamp())
    clock = Clock()
    times = [clock.timestamp() for _ in range(1000)]
    assert times == sorted(times)


def test_reopen(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "log")).use()
    log.write([b"one\n"])
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.write([b"two\n"])
    log.reopen()
    log.write([b"three\n"])
    log.close()
    assert (tmp_path / "log.1").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "log").read_bytes() == b"three\n"


def test_reopen_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = LogFile(str(folder / "log")).use()
    folder.rename(tmp_path / "moved")
    with pytest.raises(NotFound, match="folder does not exist"):
        log.reopen()
    log.write([b"still here\n"])
    log.close()
    assert (tmp_path / "moved/log").read_bytes() == b"still here\n"


def test_paths_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "fifo")
    for path, error in ((tmp_path / "link", FailedPrecondition), (tmp_path / "fifo", FailedPrecondition)):
        with pytest.raises(error, match=str(path)):
            LogFile(str(path))
    with pytest.raises(InvalidArgument, match="not absolute"):
        LogFile("log")
    with pytest.raises(NotFound, match="folder"):
        LogFile(str(tmp_path / "no/log"))


def test_a_full_disk_drops_whole_bytes_and_begins_anew(tmp_path: Path) -> None:
    """A file size limit stands for the disk: the write that crosses it is cut, the next fails."""
    log = LogFile(str(tmp_path / "log")).use()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        log.write([b"a" * 79, b"\n"])
        log.write([b"b" * 39, b"\n"])
        assert log.dropped == 20
        log.write([b"c" * 9, b"\n"])
        assert log.dropped == 31
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    log.write([b"d\n"])
    log.close()
    assert (tmp_path / "log").read_bytes() == b"a" * 79 + b"\n" + b"b" * 20 + b"\nd\n"
