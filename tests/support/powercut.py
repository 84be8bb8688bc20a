"""A disk that can be looked at as a power cut would leave it: a file system in a file, and what of it has been written there."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.gate import GatedDaemon
from support.leftovers import tagged_processes

SIZE = 192 << 20
_SETTLED_SECONDS = 0.1
_PATIENCE = 30.0
# Nothing is written that nobody asks for: no commit of the journal by the clock.
_OPTIONS = "loop,data=ordered,commit=300,noatime"


def available() -> str:
    """Why this does not work here; empty where it does."""
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices"
    with open("/proc/filesystems", encoding="ascii") as known:
        return "" if "\text4\n" in known.read() else "there is no ext4"


class Disk:
    """An ext4 file system in the file `image`."""

    def __init__(self, image: Path) -> None:
        self.image = image

    def make(self) -> None:
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        options = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", options, self.image], check=True)

    @contextmanager
    def mounted(self, folder: Path) -> Iterator[None]:
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", _OPTIONS, self.image, folder], check=True)
        try:
            yield
        finally:
            _umount(folder)

    def after_power_cut(self, image: Path, daemon: GatedDaemon) -> Disk:
        """What would be there if the power went now. All of the daemon stands still while it is copied, so that nothing is
        written meanwhile; what its system calls have not brought to disk, and the kernel did not care to, is lost."""
        pids = list(tagged_processes(daemon.tag))
        _signal(pids, signal.SIGSTOP)
        try:
            time.sleep(_SETTLED_SECONDS)
            subprocess.run(["cp", "--sparse=always", self.image, image], check=True)
        finally:
            _signal(pids, signal.SIGCONT)
        return Disk(image)


def _umount(folder: Path) -> None:
    """Unmount, as soon as the last worker of a daemon that was killed is gone."""
    deadline = time.monotonic() + _PATIENCE
    while subprocess.run(["umount", folder], check=False, capture_output=True).returncode:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{folder} is still in use")
        time.sleep(0.05)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
