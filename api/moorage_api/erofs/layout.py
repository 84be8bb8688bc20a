"""What EROFS has on disk: superblock, inodes, extended attributes, directory blocks.

Source: the kernel's `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst`. Of the format, this is the part
without compression: extended inodes, data in one run of blocks, names and short contents beside their inodes. Blocks
are of 512 bytes, as those of a tar archive are, so that the bytes of an archive can be the data of the image; Linux
reads such images since 6.4.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Mapping, Sequence

BLOCK = 512
BLOCK_BITS = 9
INODE_SIZE = 64
SLOT = 32
"""Inodes begin at multiples of it; a node's number (nid) counts in it."""
SUPERBLOCK_OFFSET = 1024
HEADER = 4096
"""Bytes at the beginning of an image that are not data: the superblock is among them."""
BLOCKS_MAX = (1 << 32) - 1
NAME_MAX = 255
XATTRS_MAX = 65_000
"""Bytes of extended attributes that an inode may have here; the format's own limit is four times that."""

FLAT_PLAIN = 0
FLAT_INLINE = 2

_MAGIC = 0xE0F5E1E2
_EXTENDED = 1
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBI32x")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_ENTRY = struct.Struct("<QHBB")
_XATTR_HEADER = bytes(12)
_XATTR_ENTRY = struct.Struct("<BBH")
_SECOND = 1_000_000_000

_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
FILE_TYPES = tuple(_FILE_TYPES.get(kind << 12, 0) for kind in range(16))
"""The type of a directory entry, by the four upper bits of the mode."""

_XATTR_PREFIXES = (
    ("user.", 1),
    ("system.posix_acl_access", 2),
    ("system.posix_acl_default", 3),
    ("trusted.", 4),
    ("security.", 6),
)


def superblock(root: int, inodes: int, blocks: int, meta_block: int) -> bytes:
    """An image of `blocks` blocks whose inodes begin at the block `meta_block`; `root` is the root's nid, below 65536."""
    # No checksum, times of the image as a whole, shared attributes, or features that a kernel would have to know.
    return _SUPERBLOCK.pack(
        _MAGIC, 0, 0, BLOCK_BITS, 0, root, inodes, 0, 0, blocks, meta_block, 0, b"", b"", 0, 0, 0, 0, 0, 0, 0
    )


def inode(
    layout: int,
    xattr_size: int,
    mode: int,
    size: int,
    where: int,
    number: int,
    uid: int,
    gid: int,
    mtime: int,
    nlink: int,
) -> bytes:
    """An inode; `where` is the first block of its data, or a device; `mtime` is in nanoseconds."""
    return _INODE.pack(
        _EXTENDED | layout << 1,
        (xattr_size - 12) // 4 + 1 if xattr_size else 0,
        mode,
        0,
        size,
        where,
        number,
        uid,
        gid,
        mtime // _SECOND & 0xFFFFFFFFFFFFFFFF,
        mtime % _SECOND,
        nlink,
    )


def device(major: int, minor: int) -> int:
    """A device number as an inode has it."""
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def has_xattr(key: str) -> bool:
    """Whether the format has a place for an attribute of this name."""
    return any(key.startswith(prefix) for prefix, _ in _XATTR_PREFIXES)


def xattrs(attributes: Mapping[str, bytes]) -> bytes:
    """The attributes as they follow an inode; `ValueError` for what has no place in the format."""
    if not attributes:
        return b""
    parts = [_XATTR_HEADER]
    for key, value in attributes.items():
        prefix, index = next(((p, i) for p, i in _XATTR_PREFIXES if key.startswith(p)), ("", 0))
        name = key[len(prefix) :].encode("utf-8", "surrogateescape")
        if not index or len(name) > NAME_MAX:
            raise ValueError(f"an attribute named {key[:300]!r}")
        if len(value) > XATTRS_MAX:
            raise ValueError(f"{len(value)} bytes of the attribute {key!r}")
        entry = _XATTR_ENTRY.pack(len(name), index, len(value)) + name + value
        parts.append(entry + bytes(-len(entry) % 4))
    packed = b"".join(parts)
    if len(packed) > XATTRS_MAX:
        raise ValueError(f"{len(packed)} bytes of attributes")
    return packed


def directory_cuts(names: Sequence[bytes]) -> tuple[list[int], int]:
    """How the entries of a directory, by name, are spread over its blocks: how many each full block has, and the bytes
    of those that come last."""
    used = sum(map(len, names)) + _ENTRY.size * len(names)
    if used <= BLOCK:
        return [], used
    cuts: list[int] = []
    used = count = 0
    for name in names:
        size = _ENTRY.size + len(name)
        if used + size > BLOCK:
            cuts.append(count)
            used = count = 0
        used += size
        count += 1
    return cuts, used


def directory_block(names: Sequence[bytes], nids: Sequence[int], types: Sequence[int]) -> bytes:
    """One block of a directory: what is known of each entry, then the names. Not padded."""
    offset = _ENTRY.size * len(names)
    entries = bytearray(offset)
    at = 0
    for name, nid, kind in zip(names, nids, types, strict=True):
        _ENTRY.pack_into(entries, at, nid, offset, kind, 0)
        at += 12
        offset += len(name)
    return bytes(entries) + b"".join(names)
