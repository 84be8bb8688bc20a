"""The user's terminal: raw while a process has it, and as it was before, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty
from collections.abc import Iterator

from moorage_api.errors import InvalidArgument

DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROLS = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Put the terminal `fd` into raw mode; what it was is restored at the end, also when SIGTERM or SIGHUP ends us.

    A signal whose handler is the default one would end the process without the restoring: it becomes SystemExit here.
    """
    before = termios.tcgetattr(fd)
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _leave)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        # What was typed ahead belongs to whoever reads the terminal next, so it is kept (no TCSAFLUSH).
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def size_of(fd: int) -> tuple[int, int] | None:
    """Columns and rows; None where it is no terminal, or does not know."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return None
    return (size.columns, size.lines) if size.columns and size.lines else None


def parse_keys(text: str) -> bytes:
    """A sequence as docker writes it: `ctrl-p,ctrl-q`, letters and controls between commas. `InvalidArgument`."""
    keys = bytearray()
    for key in text.split(",") if text else ():
        control = key.removeprefix("ctrl-")
        if control != key and len(control) == 1 and ((control.isascii() and control.isalpha()) or control in _CONTROLS):
            keys.append(_CONTROLS.get(control, ord(control.lower()) - 96))
        elif len(key) == 1 and key.isascii():
            keys.append(ord(key))
        else:
            raise InvalidArgument(f"invalid detach keys {text!r}: expected keys as ctrl-p, or a, between commas")
    return bytes(keys)


class DetachKeys:
    """Finds a sequence of keys in what is typed. Bytes in, bytes out: what may be its beginning is held back, and let
    go when it turns out to be none."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0
        self.found = False

    def feed(self, typed: bytes) -> bytes:
        """What of `typed`, and of what was held back, is for the process. After `found`, nothing is."""
        if not self._keys:
            return typed
        out = bytearray()
        for byte in typed:
            if self.found:
                break
            while self._held and byte != self._keys[self._held]:
                self._let_go(out)
            if byte == self._keys[self._held]:
                self._held += 1
                self.found = self._held == len(self._keys)
            else:
                out.append(byte)
        return bytes(out)

    def _let_go(self, out: bytearray) -> None:
        """Give up the longest beginning, for the next shorter one that still fits."""
        held = self._keys[: self._held]
        shorter = next(length for length in range(self._held - 1, -1, -1) if held.endswith(self._keys[:length]))
        out += held[: self._held - shorter]
        self._held = shorter
