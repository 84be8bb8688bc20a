"""The folder of a task."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from mooraged.runtime.bundle import Bundle, Launch, scan


class Writer(threading.Thread):
    """A shim that is about to end: it writes, renames and removes files in its working directory."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__()
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._seconds = seconds
        self.written = 0

    def run(self) -> None:
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            try:
                os.close(os.open("draft", os.O_CREAT | os.O_WRONLY, dir_fd=self._fd))
                os.rename("draft", "last", src_dir_fd=self._fd, dst_dir_fd=self._fd)
                os.unlink("last", dir_fd=self._fd)
            except FileNotFoundError:  # the removal was quicker, here or for good
                continue
            self.written += 1
        os.close(self._fd)


def removed(folder: Path, bundle: Bundle, how: str) -> None:
    if how == "remove":
        bundle.remove()
    else:
        bundle.path.rename(bundle.path.parent / f".{bundle.id}.0a0b0c0d")
        assert list(scan(folder)) == []


@pytest.mark.parametrize("how", ["remove", "scan"])
def test_it_is_removed_though_somebody_writes_there(tmp_path: Path, how: str) -> None:
    written = 0
    for number in range(10):
        bundle = Bundle(tmp_path, "default", f"b{number}")
        bundle.create(b"{}", Launch("shim", "runtime"))
        writer = Writer(bundle.path, 0.05)
        writer.start()
        try:
            removed(tmp_path, bundle, how)
        finally:
            writer.join()
        written += writer.written
        assert list((tmp_path / "default").iterdir()) == []
    assert written
