"""How a layer gets from a differ to a snapshotter as an image.

A snapshotter that keeps images puts the file `.erofslayer` beside the folder of an active snapshot that somebody is about
to unpack a layer into. A differ that finds it, going by the mounts, may write the layer as `layer.erofs` beside it, rather
than files into the folder; the commit takes it. The names are containerd's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from moorage_api.mounts import Mount

MARKER = ".erofslayer"
IMAGE = "layer.erofs"


def layer_folder(mounts: Sequence[Mount]) -> str:
    """The folder of the snapshot behind `mounts`, which takes its layer as an image; empty where it takes files."""
    if len(mounts) != 1 or mounts[0].target:
        return ""
    place = mounts[0].source if mounts[0].type == "bind" else _upper(mounts[0])
    folder = os.path.dirname(place)
    return folder if place and os.path.exists(f"{folder}/{MARKER}") else ""


@contextmanager
def new_image(folder: str) -> Iterator[int]:
    """A descriptor of a new file for the snapshot in `folder`. It has no name, so that whatever fails or dies leaves
    nothing."""
    fd = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def keep_image(fd: int, folder: str) -> None:
    """Make the new file the snapshot's image. `FileExistsError` where it has one."""
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # With a descriptor, Python calls linkat(2), which follows the link to the file; link(2) would not.
        os.link(f"/proc/self/fd/{fd}", IMAGE, dst_dir_fd=place, follow_symlinks=True)
    finally:
        os.close(place)


def _upper(mount: Mount) -> str:
    if mount.type != "overlay":
        return ""
    return next((option.partition("=")[2] for option in mount.options if option.startswith("upperdir=")), "")
