"""A daemon in a cell: its files lie on a small file system of their own, and its memory and disk are watched."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import moorage
from moorage.client import Client
from support.daemon import Daemon
from support.leftovers import tagged_processes

SNAPSHOTTERS = ("overlayfs", "native")
_SAMPLE_SECONDS = 0.002


@dataclass
class Used:
    """The most that was used at one moment, above what was used before: bytes of memory and of disk."""

    memory: int = 0
    disk: int = 0


class Cell:
    """A daemon whose root is a tmpfs of `size` bytes. `outside` is a folder beside its snapshots, that nobody may touch."""

    def __init__(self, daemon: Daemon, size: int) -> None:
        self.daemon = daemon
        self._size = size

    @property
    def outside(self) -> Path:
        return self.daemon.root / "outside"

    def start(self) -> None:
        self.daemon.root.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "moorage-cell", self.daemon.root], check=True
        )
        self.outside.mkdir()
        (self.outside / "secret").write_text("untouched")
        self.daemon.start()

    def resize(self, size: int) -> None:
        """Give the file system another size."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.daemon.root], check=True)

    def disk(self) -> int:
        """Bytes in use."""
        found = os.statvfs(self.daemon.root)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    @contextlib.contextmanager
    def watched(self) -> Iterator[Used]:
        """Fill the result with the peaks that are reached in the block."""
        used, ended = Used(), threading.Event()
        memory, disk = self._begin_memory(), self.disk()

        def sample() -> None:
            while not ended.wait(_SAMPLE_SECONDS):
                used.disk = max(used.disk, self.disk() - disk)

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            yield used
        finally:
            ended.set()
            sampler.join()
            peak = sum(_status(pid, "VmHWM") for pid in self._processes())
            used.memory = max(peak - memory, 0)

    def _processes(self) -> list[int]:
        """The daemon and its workers: all that do something for an image."""
        return list(tagged_processes(self.daemon.tag))

    def _begin_memory(self) -> int:
        """Forget all peaks; returns what is in use now."""
        total = 0
        for pid in self._processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
                total += _status(pid, "VmRSS")
        return total

    async def leftovers(self, namespace: str) -> list[object]:
        """What is there of images and of attempts to get some, in the namespace and on disk."""
        async with moorage.connect(self.daemon.address, namespace) as client:
            await client.garbage.collect()
            found = [item async for item in _records(client)]
        root = self.daemon.root
        content = root / "io.containerd.content.v1.content"
        folders = [
            content / "ingest",
            *(content / "blobs").iterdir(),
            self.daemon.state / "io.containerd.differ.v1.walking",
        ]
        folders += [root / f"io.containerd.snapshotter.v1.{name}" / "snapshots" for name in SNAPSHOTTERS]
        found += [path for folder in folders for path in folder.iterdir()]
        outside = {path.name: path.read_text() for path in self.outside.iterdir()}
        return [*found, *([] if outside == {"secret": "untouched"} else [outside])]


async def _records(client: Client) -> AsyncIterator[object]:
    for service in (client.images, client.leases):
        for item in await service.list():
            yield item
    for status in await client.content.ingests():
        yield status
    for name in SNAPSHOTTERS:
        for info in await client.snapshots(name).list():
            yield info


def _status(pid: int, key: str) -> int:
    """A line of `/proc/PID/status` in bytes; zero for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)
