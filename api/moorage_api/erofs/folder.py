"""Makes the image of a layer of what a folder holds: the upper folder of an overlay."""

from __future__ import annotations

import errno
import os
import stat

from moorage_api.erofs import layout
from moorage_api.erofs.image import ImageWriter, Node
from moorage_api.linux.copying import copy_data
from moorage_api.linux.tree import Left, walk

# Of what overlayfs notes in an upper folder, what it still asks of a lower one.
_OVERLAY = "trusted.overlay."
_OF_LOWER = frozenset((f"{_OVERLAY}opaque", f"{_OVERLAY}redirect", f"{_OVERLAY}metacopy", f"{_OVERLAY}whiteout"))


def write_folder(fd: int, folder: str) -> None:
    """Write into the new file `fd` the image of all that is in `folder`, with what overlayfs keeps of deletions.

    `OSError`; `EINVAL` for what an image has no place for.
    """
    writer = ImageWriter(fd)
    try:
        writer.finish(_Reading(writer).read(folder))
    except ValueError as error:
        raise OSError(errno.EINVAL, f"no place in an EROFS image: {error}", folder) from error


def folder_node(folder: str) -> Node:
    """The folder with its owner, mode, time and attributes, and with nothing in it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _node(os.fstat(fd), f"/proc/self/fd/{fd}/.")
    finally:
        os.close(fd)


class _Reading:
    """A folder on its way into an image."""

    def __init__(self, writer: ImageWriter) -> None:
        self._writer = writer
        self._linked: dict[tuple[int, int], Node] = {}

    def read(self, folder: str) -> Node:
        trail: list[Node] = []
        root: Node | None = None
        for event in walk(folder):
            if isinstance(event, Left):
                trail.pop()
                continue
            # What it holds is known by its descriptor, whatever the path has become meanwhile.
            here = _node(os.fstat(event.fd), f"/proc/self/fd/{event.fd}/.")
            if trail:
                _children(trail[-1])[os.fsencode(event.name)] = here
            root = root or here
            trail.append(here)
            folders = set(event.folders)
            for entry in event.entries:
                if entry.name not in folders:
                    _children(here)[os.fsencode(entry.name)] = self._read_entry(entry.name, event.fd)
        assert root is not None
        return root

    def _read_entry(self, name: str, fd: int) -> Node:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        key = (found.st_dev, found.st_ino)
        if found.st_nlink > 1 and key in self._linked:
            return self._linked[key]
        node = _node(found, f"/proc/self/fd/{fd}/{name}")
        if stat.S_ISREG(found.st_mode):
            self._copy(node, name, fd)
        elif stat.S_ISLNK(found.st_mode):
            node.target = os.fsencode(os.readlink(name, dir_fd=fd))
        if found.st_nlink > 1:
            self._linked[key] = node
        return node

    def _copy(self, node: Node, name: str, fd: int) -> None:
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            found = os.fstat(source)
            node.size = found.st_size
            if node.size:
                node.offset = self._writer.reserve(node.size)
                copy_data(source, self._writer.fd, found, node.offset)
        finally:
            os.close(source)


def _node(found: os.stat_result, path: str) -> Node:
    node = Node(found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns)
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        node.device = layout.device(os.major(found.st_rdev), os.minor(found.st_rdev))
    names = os.listxattr(path, follow_symlinks=False)
    if names:
        node.xattrs = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in names
            if layout.has_xattr(name) and (not name.startswith(_OVERLAY) or name in _OF_LOWER)
        }
    return node


def _children(node: Node) -> dict[bytes, Node]:
    assert node.children is not None
    return node.children
