"""Syncs that begin while a layer is still extracted."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from moorage_api.linux import syscalls
from mooraged.differ.settling import STEP, Settling

PATIENCE = 30


class Disk:
    """Counts syncs; each waits until it may end."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.syncs = 0
        self.error: OSError | None = None

    def syncfs(self, _fd: int) -> None:
        self.syncs += 1
        self.begun.release()
        assert self.may_end.acquire(timeout=PATIENCE)
        if self.error is not None:
            raise self.error


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(syscalls, "syncfs", made.syncfs)
    return made


def test_a_small_layer_is_left_to_the_last_sync(disk: Disk, tmp_path: Path) -> None:
    threads = threading.active_count()
    with Settling(str(tmp_path)) as settling:
        settling.passed(STEP - 1)
        assert threading.active_count() == threads
    assert disk.syncs == 0


def test_nothing_happens_where_it_is_not_wanted(disk: Disk, tmp_path: Path) -> None:
    with Settling(str(tmp_path), wanted=False) as settling:
        settling.passed(10 * STEP)
    assert disk.syncs == 0


def test_syncs_go_on_beside_the_extraction_one_at_a_time(disk: Disk, tmp_path: Path) -> None:
    threads = threading.active_count()
    with Settling(str(tmp_path)) as settling:
        for _ in range(4):
            settling.passed(STEP // 4)
        assert disk.begun.acquire(timeout=PATIENCE)
        settling.passed(STEP)
        settling.passed(STEP)  # the one that follows is for both
        disk.may_end.release()
        assert disk.begun.acquire(timeout=PATIENCE)
        disk.may_end.release()
    assert disk.syncs == 2
    assert threading.active_count() == threads


def test_a_sync_may_outlast_the_extraction(disk: Disk, tmp_path: Path) -> None:
    with Settling(str(tmp_path), outlasting=True) as settling:
        settling.passed(STEP)
        assert disk.begun.acquire(timeout=PATIENCE)
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "settle")
    assert thread.is_alive()
    disk.may_end.release()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert disk.syncs == 1


def fail(disk: Disk, folder: Path, error: Exception | None = None, *, outlasting: bool = False) -> None:
    """Extract beside a sync that fails; the extraction itself ends with `error`."""
    disk.error = OSError(errno.EIO, "the disk is gone")
    disk.may_end.release()
    with Settling(str(folder), outlasting=outlasting) as settling:
        settling.passed(STEP)
        assert disk.begun.acquire(timeout=PATIENCE)
        if error is not None:
            raise error


def test_an_error_of_the_disk_is_not_lost(disk: Disk, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        fail(disk, tmp_path)


def test_what_failed_first_has_the_word(disk: Disk, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no archive"):
        fail(disk, tmp_path, ValueError("no archive"))


def test_no_sync_outlasts_an_extraction_that_fails(disk: Disk, tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(ValueError, match="no archive"):
        fail(disk, tmp_path, ValueError("no archive"), outlasting=True)
    assert threading.active_count() == threads


def test_one_file_is_written_back_alone(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    with (tmp_path / "image").open("wb") as file:
        monkeypatch.setattr(syscalls, "start_writeback", lambda fd: written.append(os.readlink(f"/proc/self/fd/{fd}")))
        with Settling(str(tmp_path), file=file.fileno()) as settling:
            settling.passed(STEP)
            deadline = time.monotonic() + PATIENCE
            while not written and time.monotonic() < deadline:
                time.sleep(0.01)
    assert written == [str(tmp_path / "image")]
    assert disk.syncs == 0


def test_writeback_begins_in_the_kernel(tmp_path: Path) -> None:
    with (tmp_path / "image").open("wb", buffering=0) as file:
        file.write(b"text")
        syscalls.start_writeback(file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        syscalls.start_writeback(-1)
