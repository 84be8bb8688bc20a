"""Bring files to disk, together with others who ask for the same."""

from __future__ import annotations

import os
import threading

from moorage_api.linux import syscalls


class _Run:
    """One sync and how it went."""

    done = False
    error: OSError | None = None


class SharedSync:
    """syncfs(2) of the file system that `path` lies on, one at a time, each shared by all who wait for its start.

    Layers that are committed at the same time cost one sync, not one each. The descriptor is held from the start, so
    that an error of writing that happened in the background is reported by the next call, and not lost.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._changed = threading.Condition()
        self._current: _Run | None = None
        self._next = _Run()

    def __call__(self) -> None:
        """Return when all that was written before the call is on disk. `OSError` when it could not be."""
        with self._changed:
            # A run that is under way began before this call: only the one after it is good enough.
            run = self._next
            self._changed.wait_for(lambda: run.done or self._current is None)
            leads = not run.done
            if leads:
                self._current, self._next = run, _Run()
        if leads:
            self._perform(run)
        if run.error is not None:
            raise OSError(run.error.errno, run.error.strerror)

    def close(self) -> None:
        """Close the descriptor. Twice is harmless; no call may be under way or follow."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _perform(self, run: _Run) -> None:
        try:
            syscalls.syncfs(self._fd)
        except OSError as error:
            run.error = error
        with self._changed:
            run.done = True
            self._current = None
            self._changed.notify_all()


def sync_folder(path: str) -> None:
    """Bring the entries of the folder `path` to disk: names made, renamed or removed in it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
