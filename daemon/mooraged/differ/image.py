"""Makes an EROFS image of a layer: the archive itself is the data, and what its headers say becomes the inodes.

Nothing is written but the bytes of the archive as they come, and the tree at the end; a file's data stay where the archive
has them. Deletions are kept as overlayfs keeps them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from moorage_api.erofs import layout
from moorage_api.erofs.folder import folder_node
from moorage_api.erofs.image import ImageWriter, Node
from mooraged.differ.copyup import find_below
from mooraged.differ.folders import link_target
from mooraged.differ.limits import Limits
from mooraged.differ.sink import Sink, may_be_set, time_of
from mooraged.differ.tar.events import Data, Entry, LimitError, TarError, Type
from mooraged.differ.whiteouts import OVERLAY_OPAQUE

_LINKS_MAX = 255
_TARGET_MAX = 4095
_KNOWN_MAX = 4096
# The tree is kept in memory until the end.
_TREE_MAX = 512 << 20
# What a node takes beside its names and attributes, about.
_NODE_SIZE = 400
_DEVICE_KINDS = {Type.CHARACTER_DEVICE: stat.S_IFCHR, Type.BLOCK_DEVICE: stat.S_IFBLK, Type.FIFO: stat.S_IFIFO}
_WHITEOUT_MODE = stat.S_IFCHR


class ImageSink(Sink[Node]):
    """Makes the image in the new file `fd`, whose root looks as the folder `root` does.

    `lower` is as for `Extractor`. All bytes of the archive go to `append`, those of an entry before its events are taken.
    """

    def __init__(self, fd: int, root: str, limits: Limits, lower: Sequence[str] = ()) -> None:
        super().__init__(
            limits,
            {
                Type.FILE: self._make_file,
                Type.LINK: self._make_link,
                Type.SYMLINK: self._make_symlink,
                Type.CHARACTER_DEVICE: self._make_device,
                Type.BLOCK_DEVICE: self._make_device,
                Type.FIFO: self._make_device,
                Type.FOLDER: self._make_folder,
            },
        )
        self._writer = ImageWriter(fd)
        self._begin_of_archive = self._writer.end
        self._root = folder_node(root)
        self._lower = lower
        # By path as the archive has it: other paths may lead to the same folder.
        self._known: dict[bytes, Node] = {}
        self._forget()
        self._file = self._root
        self._regions: list[tuple[int, int]] = []
        self._sparse: list[tuple[Node, int, list[tuple[int, int]]]] = []
        self._memory = 0

    def append(self, data: memoryview) -> None:
        """The next bytes of the archive. May be called in another thread than the rest, before `finish`."""
        self._writer.append(data)

    def finish(self) -> None:
        for node, begin, regions in self._sparse:
            self._spread(node, begin, regions)
        try:
            self._writer.finish(self._root)
        except ValueError as error:
            raise TarError(f"no place in an EROFS image: {error}") from error

    def close(self) -> None:
        """Nothing is held."""

    def _folder(self, path: bytes) -> Node:
        found = self._known.get(path)
        if found is None:
            found = self._resolve(path, make=True)
            if len(self._known) >= _KNOWN_MAX:
                self._forget()
            self._known[path] = found
        return found

    def _forget(self) -> None:
        self._known = {b"": self._root}

    def _remove(self, folder: Node, name: bytes, uid: int, gid: int) -> None:
        there = _children(folder).get(name)
        if there is None:
            self._add(folder, name, Node(_WHITEOUT_MODE, uid, gid))
        elif there.children is not None:
            # This layer's own, which hides what is below only when it is opaque.
            self._empty(there)

    def _empty(self, folder: Node) -> None:
        folder.xattrs = {**(folder.xattrs or {}), OVERLAY_OPAQUE: b"y"}

    def _make_file(self, entry: Entry, path: bytes, folder: Node, name: bytes) -> None:
        node = self._file = self._node(stat.S_IFREG, entry)
        node.size = entry.size
        self._put(path, folder, name, node)
        self._regions = []

    def _write(self, entry: Entry, event: Data) -> None:
        begin, end = event.offset, event.offset + len(event.view)
        if self._regions and self._regions[-1][1] == begin:
            begin = self._regions.pop()[0]
        self._regions.append((begin, end))

    def _finish_file(self, entry: Entry) -> None:
        """Where a file has no holes, its bytes stay where they are."""
        node, begin = self._file, self._begin_of_archive + entry.offset
        if self._regions == [(0, node.size)]:
            node.offset = begin
        elif node.size:
            self._sparse.append((node, begin, self._regions))

    def _make_folder(self, entry: Entry, path: bytes, folder: Node, name: bytes) -> None:
        there = _children(folder).get(name)
        made = self._node(stat.S_IFDIR, entry)
        if there is not None and there.children is not None:
            there.mode, there.uid, there.gid, there.mtime = made.mode, made.uid, made.gid, made.mtime
            if made.xattrs:
                there.xattrs = {**(there.xattrs or {}), **made.xattrs}
            return
        self._put(path, folder, name, made)
        if there is not None:
            self._empty(made)

    def _make_link(self, entry: Entry, path: bytes, folder: Node, name: bytes) -> None:
        target_parent, target_name = link_target(entry.link, path, self._limits.max_depth, self._limits.max_path)
        try:
            node = _children(self._resolve(target_parent, make=False)).get(target_name)
        except FileNotFoundError:
            node = None
        if node is None:
            raise TarError(f"the target of the hard link, {target_name[:200]!r}, is not there")
        if node.children is not None:
            raise TarError("a hard link to a folder")
        self._put(path, folder, name, node)

    def _make_symlink(self, entry: Entry, path: bytes, folder: Node, name: bytes) -> None:
        node = self._node(stat.S_IFLNK, entry, permissions=0o777)
        if not 0 < len(entry.link) <= _TARGET_MAX:
            raise TarError(f"a symbolic link to {len(entry.link)} bytes of name")
        node.target = entry.link
        self._memory += len(entry.link)
        self._put(path, folder, name, node)

    def _make_device(self, entry: Entry, path: bytes, folder: Node, name: bytes) -> None:
        node = self._node(_DEVICE_KINDS[entry.type], entry)
        if entry.type is not Type.FIFO:
            if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
                raise TarError(f"device {entry.major}:{entry.minor} is out of range")
            node.device = layout.device(entry.major, entry.minor)
        self._put(path, folder, name, node)

    def _node(self, kind: int, entry: Entry, permissions: int = 0) -> Node:
        node = Node(kind | (permissions or entry.mode), entry.uid, entry.gid, time_of(entry))
        if entry.xattrs:
            takes_user = kind in (stat.S_IFREG, stat.S_IFDIR)
            node.xattrs = {
                key: value
                for key, value in entry.xattrs.items()
                if may_be_set(key) and layout.has_xattr(key) and (takes_user or not key.startswith("user."))
            }
            self._memory += sum(len(key) + len(value) for key, value in node.xattrs.items())
        return node

    def _put(self, path: bytes, folder: Node, name: bytes, node: Node) -> None:
        """Give a node its name, in the place of what has it."""
        there = _children(folder).get(name)
        if there is not None and (there.children is not None or there.target):
            # Paths may lead elsewhere now, that of the folder too.
            del _children(folder)[name]
            self._forget()
            folder = self._folder(path.rpartition(b"/")[0])
        self._add(folder, name, node)

    def _add(self, folder: Node, name: bytes, node: Node) -> None:
        if len(name) > layout.NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self._memory += _NODE_SIZE + len(name)
        if self._memory > _TREE_MAX:
            raise LimitError(f"more than {_TREE_MAX} bytes of names and attributes")
        _children(folder)[name] = node

    def _resolve(self, path: bytes, *, make: bool) -> Node:
        """The folder at `path`; links on the way are followed with the root as `/`. What is missing is made, or
        `FileNotFoundError`."""
        trail, names = [self._root], list[bytes]()
        pending = path.split(b"/")[::-1]
        links = 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del trail[max(len(names), 1) :], names[-1:]
                continue
            node = _children(trail[-1]).get(name)
            if node is None:
                if not make:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                node = self._missing(b"/".join((*names, name)), trail[-1], name)
            elif node.target:
                links += 1
                if links > _LINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if node.target.startswith(b"/"):
                    del trail[1:], names[:]
                pending.extend(node.target.split(b"/")[::-1])
                continue
            elif node.children is None:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            trail.append(node)
            names.append(name)
        return trail[-1]

    def _missing(self, path: bytes, folder: Node, name: bytes) -> Node:
        """A folder that the archive has files in, and no entry (yet): as it is in the layers below, if it is there."""
        self._count()
        node = self._below(path)
        if node is None:
            node = Node(stat.S_IFDIR | 0o755)
            self.incomplete = True
        self._add(folder, name, node)
        return node

    def _below(self, path: bytes) -> Node | None:
        found = find_below(self._lower, path)
        if found is None:
            return None
        try:
            if not stat.S_ISDIR(os.fstat(found).st_mode):
                return None
            node = folder_node(f"/proc/self/fd/{found}")
        finally:
            os.close(found)
        node.xattrs = {key: value for key, value in (node.xattrs or {}).items() if may_be_set(key)}
        return node

    def _spread(self, node: Node, begin: int, regions: list[tuple[int, int]]) -> None:
        """Give a file with holes room of its own, where the holes are holes of the image."""
        node.offset = self._writer.reserve(node.size)
        for start, end in regions:
            while start < end:
                copied = os.copy_file_range(self._writer.fd, self._writer.fd, end - start, begin, node.offset + start)
                start += copied
                begin += copied


def _children(node: Node) -> dict[bytes, Node]:
    assert node.children is not None
    return node.children
