"""Writes an EROFS image: data first, as it comes, then what it is called and whose it is."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import BinaryIO

from moorage_api.erofs import layout
from moorage_api.erofs.layout import BLOCK, HEADER, INODE_SIZE, SLOT
from moorage_api.linux.files import write_at

_FLUSH = 1 << 20
_FIRST = 2
"""The least nid. Zero would be the inode number that programs take for no file."""
_HERE, _ABOVE = b".", b".."
_FOLDER_TYPE = layout.FILE_TYPES[stat.S_IFDIR >> 12]


class Node:
    """A file of any kind, to be written. One that has several names is the same node under each.

    `size` and `offset` say which bytes of the image are a regular file's data; `offset` is a multiple of the block.
    `children` belongs to folders, `target` to symbolic links, `device` to devices (`layout.device`). `mtime` is in
    nanoseconds.
    """

    __slots__ = (
        "_block",
        "_cuts",
        "_inline",
        "_names",
        "_packed",
        "_parent",
        "children",
        "device",
        "gid",
        "mode",
        "mtime",
        "nid",
        "nlink",
        "offset",
        "size",
        "target",
        "uid",
        "xattrs",
    )

    _parent: Node
    _names: list[bytes]
    _cuts: list[int]

    def __init__(self, mode: int, uid: int = 0, gid: int = 0, mtime: int = 0) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.size = 0
        self.offset = 0
        self.device = 0
        self.target = b""
        self.xattrs: Mapping[str, bytes] | None = None
        self.children: dict[bytes, Node] | None = {} if stat.S_ISDIR(mode) else None
        self.nid = -1
        """Its number in the image, once it has a place there."""
        self.nlink = 0
        self._block = -1
        self._inline = 0
        self._packed = b""


class ImageWriter:
    """An image in the making, in the new file `fd`. `OSError`: `EFBIG` for more than an image holds."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.end = HEADER
        """Where the next bytes of data go."""

    def append(self, data: memoryview) -> None:
        """Add bytes of data after those that came before."""
        write_at(self.fd, data, self.end)
        self.end += len(data)

    def reserve(self, size: int) -> int:
        """Room for the data of a file of `size` bytes, a hole so far; returns where it begins."""
        start = _aligned(self.end)
        self.end = start + size
        _check(self.end)
        return start

    def finish(self, root: Node) -> None:
        """Write the tree, and what makes the file an image. `ValueError` for attributes that the format has no place for."""
        meta = _aligned(self.end)
        _check(meta)
        metadata = _Metadata(root, meta // BLOCK)
        os.ftruncate(self.fd, meta)
        with open(self.fd, "wb", buffering=_FLUSH, closefd=False) as file:
            file.seek(meta)
            metadata.write(file)
            size = file.tell()
        _check(size)
        head = layout.superblock(root.nid, metadata.count, size // BLOCK, meta // BLOCK)
        os.pwrite(self.fd, head, layout.SUPERBLOCK_OFFSET)


class _Metadata:
    """The inodes and folders of a tree: first each gets its place, then all are written in that order.

    Inodes come first, folder by folder, each with its attributes, and with the content of a small folder or link where it
    fits into the block. What does not fit follows after the inodes, in blocks of its own.
    """

    def __init__(self, root: Node, meta_block: int) -> None:
        self._nodes: list[Node] = []
        self._end = _FIRST * SLOT
        self._blocks = 0
        root._parent = root
        root.nlink = 1
        self._place(root)
        for node in self._nodes:
            if node.children is not None:
                self._place_children(node, node.children)
        self._end = _aligned(self._end)
        self._first_block = meta_block + self._end // BLOCK

    @property
    def count(self) -> int:
        """How many inodes there are."""
        return len(self._nodes)

    def _place_children(self, folder: Node, children: dict[bytes, Node]) -> None:
        for name in folder._names:
            child = children.get(name)
            if child is None:
                continue
            child.nlink += 1
            if child.nid < 0:
                if child.children is not None:
                    child._parent = folder
                    folder.nlink += 1
                self._place(child)

    def _place(self, node: Node) -> None:
        """Give an inode its place, and the content of a folder or link."""
        self._nodes.append(node)
        packed = node._packed = layout.xattrs(node.xattrs) if node.xattrs else b""
        blocks = tail = 0
        if node.children is not None:
            # Its own entry, ".".
            node.nlink += 1
            node._names = sorted((_HERE, _ABOVE, *node.children))
            node._cuts, tail = layout.directory_cuts(node._names)
            blocks = len(node._cuts)
            node.size = blocks * BLOCK + tail
        elif node.target:
            node.size = tail = len(node.target)
        base = INODE_SIZE + len(packed)
        start = self._end + -self._end % SLOT
        if start % BLOCK > BLOCK - INODE_SIZE:
            start = _aligned(start)
        if tail:
            if base + tail <= BLOCK:
                if (start + base) % BLOCK + tail > BLOCK:
                    start = _aligned(start)
                node._inline = tail
            else:
                blocks += _aligned(tail) // BLOCK
        if blocks:
            node._block = self._blocks
            self._blocks += blocks
        node.nid = start // SLOT
        self._end = start + base + node._inline

    def write(self, file: BinaryIO) -> None:
        """Write all of it, from the first block of inodes on."""
        begin = file.tell()
        position = 0
        contents: list[bytes] = []
        for number, node in enumerate(self._nodes, 1):
            start = node.nid * SLOT
            if start > position:
                file.write(bytes(start - position))
            content = self._content(node)
            inline = content[len(content) - node._inline :] if node._inline else b""
            if node._block >= 0:
                own = content[: len(content) - node._inline]
                contents.append(own + bytes(-len(own) % BLOCK))
            file.write(self._inode(node, number) + node._packed + inline)
            position = start + INODE_SIZE + len(node._packed) + len(inline)
        file.write(bytes(self._end - position))
        file.writelines(contents)
        assert file.tell() - begin == self._end + self._blocks * BLOCK

    def _inode(self, node: Node, number: int) -> bytes:
        where = node.device or node.offset // BLOCK
        if node._block >= 0:
            where = self._first_block + node._block
        return layout.inode(
            layout.FLAT_INLINE if node._inline else layout.FLAT_PLAIN,
            len(node._packed),
            node.mode,
            node.size,
            where,
            number,
            node.uid,
            node.gid,
            node.mtime,
            node.nlink,
        )

    def _content(self, node: Node) -> bytes:
        """The blocks of a folder, the last one not padded, or a link's target."""
        children = node.children
        if children is None:
            return node.target
        names = node._names
        nids: list[int] = []
        types: list[int] = []
        for name in names:
            child = children.get(name)
            if child is not None:
                nids.append(child.nid)
                types.append(layout.FILE_TYPES[child.mode >> 12])
            else:
                nids.append(node.nid if name == _HERE else node._parent.nid)
                types.append(_FOLDER_TYPE)
        if not node._cuts:
            return layout.directory_block(names, nids, types)
        blocks: list[bytes] = []
        start = 0
        for count in (*node._cuts, len(names)):
            end = start + count
            block = layout.directory_block(names[start:end], nids[start:end], types[start:end])
            start = end
            blocks.append(block if end >= len(names) else block + bytes(BLOCK - len(block)))
        return b"".join(blocks)


def _aligned(offset: int) -> int:
    """The first beginning of a block from `offset` on."""
    return offset + -offset % BLOCK


def _check(end: int) -> None:
    if end > layout.BLOCKS_MAX * BLOCK:
        raise OSError(errno.EFBIG, "more than an EROFS image holds")
