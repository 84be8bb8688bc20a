"""The images of criu that a container is started from once, in its folder. A container that was made to be started from
them is never started without."""

from __future__ import annotations

import shutil
from pathlib import Path

from moorage_api.errors import FailedPrecondition

_FOLDER = "restore"


def keep(folder: Path, images: Path) -> None:
    """Copy them, whole or not at all, into a container's folder. This does I/O."""
    scratch = folder / f"{_FOLDER}.tmp"
    shutil.copytree(images, scratch)
    scratch.rename(folder / _FOLDER)


def images(folder: Path) -> str:
    """Where they are. `FailedPrecondition` where making the container was cut short."""
    path = folder / _FOLDER
    if not path.is_dir():
        raise FailedPrecondition("the checkpoint that this container was to be started from was not wholly restored")
    return str(path)
