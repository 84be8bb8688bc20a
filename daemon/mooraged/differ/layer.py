"""Puts files of this machine into a layer: a tar as the OCI image specification has it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable

from mooraged.differ.compression import CHUNK, compressor
from mooraged.differ.media import Compression
from mooraged.differ.tar import writer
from mooraged.differ.tar.events import Entry, TarError, Type
from mooraged.differ.whiteouts import OPAQUE, PREFIX

_OUTPUT_AT_LEAST = 1 << 18
_TYPES = {
    stat.S_IFREG: Type.FILE,
    stat.S_IFLNK: Type.SYMLINK,
    stat.S_IFCHR: Type.CHARACTER_DEVICE,
    stat.S_IFBLK: Type.BLOCK_DEVICE,
    stat.S_IFDIR: Type.FOLDER,
    stat.S_IFIFO: Type.FIFO,
}


class Layer:
    """A layer in the making; its bytes, compressed, go to `output`. Paths are below the root, without a slash at the
    ends. A file with several names is stored under the first and linked to from the others."""

    def __init__(self, compression: Compression, output: Callable[[bytes], None]) -> None:
        self._compressor = compressor(compression)
        self._output = output
        self._pending = bytearray()
        self._digest = hashlib.sha256()
        self._first: dict[tuple[int, int], bytes] = {}
        self._unchanged: dict[tuple[int, int], list[bytes]] = {}
        self.size = 0

    @property
    def digest(self) -> str:
        """The digest of the uncompressed bytes so far."""
        return f"sha256:{self._digest.hexdigest()}"

    def add_folder(self, path: bytes, fd: int) -> None:
        """Add the folder that `fd` is, without what is in it."""
        entry = _entry(path, os.fstat(fd))
        entry.xattrs = _xattrs(f"/proc/self/fd/{fd}", follow=True)
        self._write(writer.header(entry))

    def add(self, path: bytes, fd: int, name: bytes) -> None:
        """Add what `name` in the folder `fd` is, no folder. Sockets are left out: they mean nothing without a process."""
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISSOCK(found.st_mode):
            return
        entry = _entry(path, found)
        key = (found.st_dev, found.st_ino)
        linked = found.st_nlink > 1
        if linked and key in self._first:
            self._link(path, self._first[key])
            return
        if entry.type is Type.SYMLINK:
            entry.link = os.readlink(name, dir_fd=fd)
        entry.xattrs = _xattrs(os.fsencode(f"/proc/self/fd/{fd}/") + name, follow=False)
        self._write(writer.header(entry))
        if entry.size:
            self._write_file(path, fd, name, entry.size)
        if linked:
            self._first[key] = path
            for other in self._unchanged.pop(key, ()):
                self._link(other, path)

    def leave(self, path: bytes, found: os.stat_result) -> None:
        """Note a file that has not changed: it is named all the same where another name of it is in the layer."""
        if found.st_nlink < 2:
            return
        key = (found.st_dev, found.st_ino)
        if key in self._first:
            self._link(path, self._first[key])
        else:
            self._unchanged.setdefault(key, []).append(path)

    def remove(self, path: bytes) -> None:
        """Add a whiteout for `path`."""
        parent, slash, name = path.rpartition(b"/")
        self._write(writer.header(Entry(parent + slash + PREFIX + name, Type.FILE, mode=0)))

    def opaque(self, path: bytes) -> None:
        """Say that the folder `path` hides all that the layers below have in it."""
        self._write(writer.header(Entry(path + b"/" + OPAQUE, Type.FILE, mode=0)))

    def finish(self) -> None:
        """End the archive."""
        self._write(writer.END)
        self._pending += self._compressor.flush()
        self._output(bytes(self._pending))
        self._pending.clear()

    def _link(self, path: bytes, target: bytes) -> None:
        self._write(writer.header(Entry(path, Type.LINK, link=target)))

    def _write_file(self, path: bytes, fd: int, name: bytes, size: int) -> None:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            left = size
            while left:
                data = os.read(file, min(left, CHUNK))
                if not data:
                    raise TarError(f"{os.fsdecode(path)!r}: the file became shorter while it was read")
                self._write(data)
                left -= len(data)
        finally:
            os.close(file)
        self._write(writer.padding(size))

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self.size += len(data)
        self._pending += self._compressor.compress(data)
        if len(self._pending) >= _OUTPUT_AT_LEAST:
            self._output(bytes(self._pending))
            self._pending.clear()


def _entry(path: bytes, found: os.stat_result) -> Entry:
    if path.rpartition(b"/")[2].startswith(PREFIX):
        raise TarError(f"{os.fsdecode(path)!r}: a layer cannot hold a name that begins with {os.fsdecode(PREFIX)}")
    kind = _TYPES[stat.S_IFMT(found.st_mode)]
    device = kind in (Type.CHARACTER_DEVICE, Type.BLOCK_DEVICE)
    return Entry(
        name=path + b"/" if kind is Type.FOLDER else path,
        type=kind,
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        size=found.st_size if kind is Type.FILE else 0,
        mtime=found.st_mtime_ns,
        major=os.major(found.st_rdev) if device else 0,
        minor=os.minor(found.st_rdev) if device else 0,
    )


def _xattrs(path: str | bytes, *, follow: bool) -> dict[str, bytes]:
    """The attributes that travel: capabilities and users' own. Labels of security modules belong to the machine."""
    return {
        key: os.getxattr(path, key, follow_symlinks=follow)
        for key in os.listxattr(path, follow_symlinks=follow)
        if key == "security.capability" or (key.startswith("user.") and not key.startswith("user.overlay."))
    }
