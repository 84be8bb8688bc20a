"""Fixtures of the client's tests: the real command line against a real daemon, with and without a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

import moorage
from moorage.cli.app import execute
from support import inprocess
from support.daemon import BIN, Daemon
from support.terminal import Terminal, wait_until


class Cli:
    """`moorage`, in one namespace of one daemon."""

    def __init__(self, daemon: Daemon, image: str, namespace: str) -> None:
        self.daemon = daemon
        self.image = image
        self.namespace = namespace

    @property
    def environment(self) -> dict[str, str]:
        # Without a network where a test asks for none: what makes one runs several programs.
        return {**self.daemon.environment, "MOORAGE_NAMESPACE": self.namespace, "MOORAGE_NETWORK": "none"}

    def call(self, *words: str, input: str = "") -> inprocess.Done:
        """Run it to its end, whatever its exit code."""
        return inprocess.call(execute, words, self.environment, input)

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


@pytest.fixture(scope="session")
def shared_daemon() -> Iterator[Daemon]:
    """One daemon for all tests of the client, each of which has a namespace of its own. Some restart it."""
    with Daemon() as running:
        yield running


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
