"""Debian's `ctr` as a client of a daemon."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.clients import Clients
from support.terminal import Terminal


def lines(text: str) -> list[list[str]]:
    """The words of a table's rows, without its head."""
    return [line.split() for line in text.splitlines()[1:] if line.strip()]


class Ctr:
    """`ctr` in one namespace of a daemon."""

    def __init__(self, daemon: Clients, namespace: str) -> None:
        self.daemon = daemon
        self.namespace = namespace
        self.fifos = str(daemon.folder / "fifos")

    def __call__(self, *words: str, input: str = "") -> str:
        return self.daemon.run("ctr", "-n", self.namespace, *words, input=input)

    def call(self, *words: str, input: str = "") -> subprocess.CompletedProcess[str]:
        """The finished command, whatever its exit status."""
        return self.daemon.call("ctr", "-n", self.namespace, *words, input=input)

    def fails(self, *words: str) -> str:
        """The error of a command that must fail."""
        done = self.call(*words)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def run(self, image: str, id: str, *command: str) -> None:
        self("run", "-d", "--fifo-dir", self.fifos, image, id, *command)

    def once(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`ctr run --rm` with these flags, image, id and command."""
        return self.call("run", "--rm", "--fifo-dir", self.fifos, *words)

    def execute(self, id: str, *command: str) -> str:
        return self("tasks", "exec", "--fifo-dir", self.fifos, "--exec-id", f"exec-{time.monotonic_ns()}", id, *command)

    def terminal(self, *words: str, size: tuple[int, int] = (80, 24)) -> Terminal:
        """Run a command on a terminal."""
        return Terminal(["ctr", "-n", self.namespace, *words], self.daemon.environment, size)

    def tasks(self) -> dict[str, str]:
        """Ids and states."""
        return {words[0]: words[-1] for words in lines(self("tasks", "ls"))}


@contextmanager
def watched(ctr: Ctr, log: Path) -> Iterator[None]:
    """`ctr events` into `log`, from before the block to after it."""
    with log.open("w") as out:
        watcher = subprocess.Popen(
            ["ctr", "-n", ctr.namespace, "events"], env=ctr.daemon.environment, stdout=out, stdin=subprocess.DEVNULL
        )
    try:
        # There is no sign that it listens but that it hears something.
        marks = 0
        while not log.read_text():
            ctr("leases", "create", "--id", "mark")
            ctr("snapshots", "prepare", f"mark-{(marks := marks + 1)}")
            ctr("snapshots", "rm", f"mark-{marks}")
            ctr("leases", "rm", "mark")
            assert marks < 50
        yield
    finally:
        watcher.kill()
        watcher.wait()
