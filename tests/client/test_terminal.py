"""The user's terminal: detach keys, sizes, and raw mode that is always taken back."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from moorage.cli import terminal
from moorage_api.errors import InvalidArgument


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """The master and the slave of a pseudo-terminal."""
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("text", "keys"),
    [("ctrl-p,ctrl-q", b"\x10\x11"), ("", b""), ("a", b"a"), ("ctrl-@,x", b"\x00x"), ("ctrl-A,ctrl-]", b"\x01\x1d")],
)
def test_keys_are_read(text: str, keys: bytes) -> None:
    assert terminal.parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pp", "ab", "ctrl-1", "a,,b", "ä"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid detach keys"):
        terminal.parse_keys(text)


@pytest.mark.parametrize(
    ("keys", "typed", "out", "found"),
    [
        (b"\x10\x11", [b"ab\x10\x11cd"], b"ab", True),
        (b"\x10\x11", [b"a\x10", b"\x11"], b"a", True),
        (b"\x10\x11", [b"a\x10", b"b"], b"a\x10b", False),
        (b"\x10\x11", [b"\x10\x10\x11"], b"\x10", True),
        (b"aab", [b"aaab"], b"a", True),
        (b"aab", [b"aaac"], b"aaac", False),
        (b"abab", [b"abaabab"], b"aba", True),
        (b"", [b"\x10\x11"], b"\x10\x11", False),
    ],
)
def test_detach_keys_are_found_and_all_else_goes_through(
    keys: bytes, typed: list[bytes], out: bytes, found: bool
) -> None:
    detach = terminal.DetachKeys(keys)
    assert b"".join(map(detach.feed, typed)) == out
    assert detach.found is found


def test_the_size_is_the_terminals(ends: tuple[int, int]) -> None:
    termios.tcsetwinsize(ends[0], (24, 81))
    assert terminal.size_of(ends[1]) == (81, 24)
    termios.tcsetwinsize(ends[0], (0, 0))
    assert terminal.size_of(ends[1]) is None
    with open(os.devnull) as null:
        assert terminal.size_of(null.fileno()) is None


def test_raw_mode_is_taken_back_after_an_error(ends: tuple[int, int]) -> None:
    before = termios.tcgetattr(ends[1])

    def fail() -> None:
        with terminal.raw(ends[1]):
            assert not termios.tcgetattr(ends[1])[3] & termios.ICANON
            raise RuntimeError("the command fails")

    with pytest.raises(RuntimeError):
        fail()
    assert termios.tcgetattr(ends[1]) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_raw_mode_is_taken_back_when_a_signal_ends_the_program(ends: tuple[int, int], number: int) -> None:
    before = termios.tcgetattr(ends[1])
    program = (
        "import time; from moorage.cli.terminal import raw\n"
        "with raw(0):\n    print('raw', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=ends[1], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"raw\n"
        assert termios.tcgetattr(ends[1]) != before
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
    assert termios.tcgetattr(ends[1]) == before
