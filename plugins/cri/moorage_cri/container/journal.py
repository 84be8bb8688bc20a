"""What became of each container's run, on disk: so that a later run of the daemon knows it.

Written whole and renamed into place. A start is not synced, since a power cut ends the container with it; an end is.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import asdict
from pathlib import Path

from moorage_cri.model import Run

logger = logging.getLogger(__name__)

_FILE = "status.json"
_VERSION = 1


def save(folder: Path, run: Run, *, sync: bool = False) -> None:
    """Write `run` into a container's folder; with `sync`, it is on disk when this returns. A folder that is gone
    means that the container was removed meanwhile: then there is nothing to write."""
    # Two threads may be at it: each writes a file of its own.
    scratch = folder / f"{_FILE}.{threading.get_ident()}.tmp"
    try:
        with open(scratch, "w", encoding="utf-8") as file:
            json.dump({"version": _VERSION, **asdict(run)}, file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(scratch, folder / _FILE)
    except FileNotFoundError:
        return


def load(folder: Path) -> Run | None:
    """What was written last; None where nothing was, or it cannot be read, which is logged."""
    try:
        document = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        if document.pop("version") != _VERSION:
            raise ValueError("it is of another version")
        return Run(**document)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("the status in %s cannot be read: %s", folder, error)
        return None
