"""A program on a pseudo-terminal, and waiting for what it does."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import termios
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Terminal:
    """A program on a pseudo-terminal that the test types on and reads."""

    def __init__(self, command: list[str], environment: dict[str, str], size: tuple[int, int]) -> None:
        self.output = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            # The size must be there before the program asks for it.
            fcntl.ioctl(0, termios.TIOCSWINSZ, _winsize(size))
            os.execvpe(command[0], command, environment)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, _winsize((columns, rows)))

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def expect(self, text: str, timeout: float = 30) -> str:
        """Read until `text` appears; returns what came up to and with it."""
        deadline = time.monotonic() + timeout
        while text not in self.output:
            assert time.monotonic() < deadline, f"no {text!r} in {self.output!r}"
            assert self._read(), f"the program ended; no {text!r} in {self.output!r}"
        found, _, self.output = self.output.partition(text)
        return found + text

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._fd)[3] & termios.ICANON

    def send_signal(self, number: int) -> None:
        os.kill(self._pid, number)

    def wait(self, timeout: float = 30) -> int:
        """Read to the end; returns the exit code."""
        deadline = time.monotonic() + timeout
        while self._pid:
            self._read(0.05)
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"the program does not end: {self.output!r}"
        raise AssertionError("it was waited for already")

    def _read(self, timeout: float = 0.2) -> bool:
        """Read what there is; False at the end."""
        if select.select([self._fd], [], [], timeout)[0]:
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                return False
            self.output += data.decode(errors="replace")
            return bool(data)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._fd)


def _winsize(size: tuple[int, int]) -> bytes:
    columns, rows = size
    return b"".join(number.to_bytes(2, "little") for number in (rows, columns, 0, 0))


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(0.05)
