"""Brings what is extracted to disk while more is extracted, so that the disk is not idle first and then all there is to wait
for. Nothing relies on it: the sync before the commit has the last word, and little left to do."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Self

from moorage_api.linux import syscalls

STEP = 64 << 20
"""Bytes of a layer after which a sync of the file system begins, if none is under way; smaller layers are left to the sync
before their commit. Each makes the journal be written, and files cannot be made meanwhile: with a quarter of it, ten layers of
50 MB took a fifth more of the processors."""
FILE_STEP = 16 << 20
"""The same for one file, which is written back without any of that."""


class Settling:
    """Syncs the file system of `folder`, again and again, in a thread of its own. Where all goes into one file, `file` is its
    descriptor: that alone is written back, and not waited for, since a sync holds up who writes to the same file. `wanted`
    False: nothing happens.

    A sync may outlast the context, with `outlasting`: where the same file system is synced after it, by someone who has had
    it open since before. That one waits for all that this one does, is told of the same errors, and need not wait to begin.
    """

    def __init__(self, folder: str, *, file: int = -1, wanted: bool = True, outlasting: bool = False) -> None:
        self._folder = folder
        self._file = file
        self._wanted = wanted
        self._outlasting = outlasting
        self._step = STEP if file < 0 else FILE_STEP
        self._passed = 0
        self._due = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def passed(self, count: int) -> None:
        """So many bytes of the layer are extracted."""
        self._passed += count
        if self._passed >= self._step and self._wanted:
            self._passed = 0
            self._due.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="settle")
                self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for a sync under way, unless it may outlast this. Raises what syncs failed with: the kernel tells an error of
        the disk only once."""
        self._ended = True
        self._due.set()
        if self._thread is not None and not (self._outlasting and error is None):
            self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            whole = self._file < 0
            fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if whole else os.dup(self._file)
            try:
                while self._due.wait() and not self._ended:
                    self._due.clear()
                    if whole:
                        syscalls.syncfs(fd)
                    else:
                        syscalls.start_writeback(fd)
            finally:
                os.close(fd)
        except OSError as error:
            self._error = error
