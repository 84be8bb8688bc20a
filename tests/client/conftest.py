"""Fixtures of the client's tests: the real command line against a real daemon, with and without a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import glob
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import pytest

import moorage
from support.daemon import BIN, Daemon

Done = subprocess.CompletedProcess[str]


class Cli:
    """`moorage`, in one namespace of one daemon."""

    def __init__(self, daemon: Daemon, image: str, namespace: str) -> None:
        self.daemon = daemon
        self.image = image
        self.namespace = namespace

    @property
    def environment(self) -> dict[str, str]:
        return {**self.daemon.environment, "MOORAGE_NAMESPACE": self.namespace}

    def call(self, *words: str, input: str = "", timeout: float = 60) -> Done:
        """Run it to its end, whatever its exit code."""
        return subprocess.run(
            [BIN / "moorage", *words],
            env=self.environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def __call__(self, *words: str, input: str = "") -> str:
        """Run what must succeed; returns its output."""
        done = self.call(*words, input=input)
        assert done.returncode == 0, f"moorage {words} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def popen(self, *words: str) -> subprocess.Popen[str]:
        """Start it; the test waits for it."""
        return subprocess.Popen(
            [BIN / "moorage", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_detached(self, *words: str, name: str = "") -> str:
        """Run a container in the background; returns its id."""
        named = ["--name", name] if name else []
        return self("run", "-d", *named, self.image, *words).strip()

    def wait_for_log(self, container: str, text: str) -> None:
        """Return when the container has written `text`."""

        def written() -> bool:
            done = self.call("logs", container)
            return text in done.stdout + done.stderr

        wait_until(written, f"{text!r} in the log of {container}")

    def terminal(self, *words: str, size: tuple[int, int] = (80, 24)) -> Terminal:
        """Run it on a terminal."""
        return Terminal([str(BIN / "moorage"), *words], self.environment, size)


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


_numbers = iter(range(1, 1000))


@pytest.fixture
def cli(shared_daemon: Daemon, busybox: str) -> Iterator[Cli]:
    """The command line in a namespace of the test's own, with the image there; what is left in it is removed."""
    client = Cli(shared_daemon, busybox, f"test-{next(_numbers)}")

    async def prepare() -> None:
        async with moorage.connect(shared_daemon.address, client.namespace) as library:
            await library.pull(busybox)

    async def clear() -> None:
        async with moorage.connect(shared_daemon.address, client.namespace) as library:
            for record in await library.containers.list():
                await (await library.container(record.id)).remove(force=True)

    asyncio.run(prepare())
    yield client
    asyncio.run(clear())


@pytest.fixture
def io_folders() -> Callable[[], set[str]]:
    """The folders for streams that there are now."""
    patterns = [os.path.join(folder, "moorage-io-*") for folder in (os.environ.get("XDG_RUNTIME_DIR", "/run"), "/tmp")]

    def folders() -> set[str]:
        found: set[str] = set()
        for pattern in patterns:
            with contextlib.suppress(OSError):
                found |= set(glob.glob(pattern))
        return found

    return folders
