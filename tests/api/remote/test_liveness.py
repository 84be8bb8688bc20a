"""The other process is killed, hangs, comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.errors import DeadlineExceeded, MoorageError, Unavailable
from moorage_api.remote.channel import Channel
from moorage_api.remote.content import RemoteContentStore
from moorage_api.remote.snapshotter import RemoteSnapshotter


class Served:
    """`moorage plugin serve` in a process of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.address = str(folder / "s.sock")
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        program = [sys.executable, "-c", "from moorage.cli import main; main()"]
        flags = ["--address", self.address, "--root", str(self.folder / "root")]
        self.process = subprocess.Popen(
            [*program, "plugin", "serve", self.name, *flags], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        assert "serving" in self.process.stderr.readline()

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)
        status = self.process.wait(timeout=20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.process = None
        return status


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    process = Served(getattr(request, "param", "native"), tmp_path)
    process.start()
    yield process
    process.end()


@pytest.fixture
def channel(served: Served) -> Iterator[Channel]:
    channel = Channel("tested", served.address, timeout=10)
    yield channel
    channel.close()


def test_killed_and_back(served: Served, channel: Channel) -> None:
    snapshotter = RemoteSnapshotter(channel, "native")
    snapshotter.prepare("key")
    served.end()
    for _ in range(20):
        before = time.monotonic()
        with pytest.raises(Unavailable, match=r"plugin tested at .*s\.sock does not answer"):
            snapshotter.stat("key")
        assert time.monotonic() - before < 1
        time.sleep(0.05)
    served.start()
    back = time.monotonic()
    while True:
        try:
            assert snapshotter.stat("key").name == "key"
            break
        except Unavailable:
            assert time.monotonic() - back < 1, "found again within a second"
            time.sleep(0.02)


def test_never_there(tmp_path: Path) -> None:
    channel = Channel("absent", str(tmp_path / "nobody.sock"))
    before = time.monotonic()
    with pytest.raises(Unavailable, match="absent"):
        list(RemoteSnapshotter(channel, "x").walk())
    assert time.monotonic() - before < 1
    channel.close()


def test_stopped_for_good(served: Served) -> None:
    """A process that is there and does not answer costs a call its deadline, and no more."""
    channel = Channel("tested", served.address, timeout=0.5)
    snapshotter = RemoteSnapshotter(channel, "native")
    snapshotter.prepare("key")
    assert served.process is not None
    os.kill(served.process.pid, signal.SIGSTOP)
    before = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="tested"):
        snapshotter.stat("key")
    assert time.monotonic() - before < 5
    channel.close()


@pytest.mark.parametrize("served", ["content"], indirect=True)
def test_killed_while_an_ingest_is_open(served: Served, channel: Channel) -> None:
    store = RemoteContentStore(channel)
    writer = store.writer("ref", 6)
    writer.write(b"abc")
    served.end()
    with pytest.raises(Unavailable):
        writer.write(b"def")
    writer.close()
    served.start()
    deadline = time.monotonic() + 10
    while True:
        try:
            again = store.writer("ref", 6)
            break
        except Unavailable:
            assert time.monotonic() < deadline
    with again:
        assert again.status().offset == 3
        again.write(b"def")
        assert again.commit(6).size == 6


@pytest.mark.parametrize("served", ["content"], indirect=True)
def test_a_writer_whose_peer_hangs(served: Served) -> None:
    channel = Channel("tested", served.address, timeout=0.5)
    writer = RemoteContentStore(channel).writer("ref", 6)
    assert served.process is not None
    os.kill(served.process.pid, signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded):
        writer.write(b"abc")
    before = time.monotonic()
    writer.close()
    assert time.monotonic() - before < 5
    channel.close()


def test_ends_when_told(served: Served, channel: Channel) -> None:
    RemoteSnapshotter(channel, "native").prepare("key")
    assert served.end(signal.SIGTERM) == 0
    with pytest.raises(MoorageError):
        RemoteSnapshotter(channel, "native").stat("key")
