"""SQLite's write-ahead log, given its size ahead of time.

To sync a file that grew takes a commit of the file system's journal, with all that others have in there; to sync bytes that
were written over others takes none, and half the time or less. SQLite begins its log anew after a checkpoint, and writes over
what is there. So the log is filled with zeros at the start, and checkpoints come before it is full; SQLite ignores what is
behind the last frame of the log, as after a crash.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

logger = logging.getLogger(__name__)

CHECKPOINT_PAGES = 256
"""Pages in the log after which SQLite brings them into the database."""
# A frame is a page and 24 bytes; the last transaction before a checkpoint may write some pages more.
_SIZE = 320 * (4096 + 24)


def size_log(database: sqlite3.Connection, path: Path) -> None:
    """Give the log of the database at `path`, which is open as `database` and used by nobody else yet, its size.

    Each connection that writes needs the call or `PRAGMA wal_autocheckpoint`. Without room the log grows as it is written.
    """
    database.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}").close()
    try:
        log = os.open(f"{path}-wal", os.O_WRONLY | os.O_CLOEXEC)
        try:
            there = os.fstat(log).st_size
            if there < _SIZE:
                os.pwrite(log, bytes(_SIZE - there), there)
        finally:
            os.close(log)
    except OSError as error:
        logger.debug("the log of %s is not given its size: %s", path, error)
