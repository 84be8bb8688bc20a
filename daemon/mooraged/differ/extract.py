"""Extracts the entries of a layer into a folder (OCI image specification, layer, applying changesets)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from moorage_api.linux.files import write_at
from mooraged.differ.copyup import copy_up, find_below, hides
from mooraged.differ.folders import Folders, link_target
from mooraged.differ.helper import Helper
from mooraged.differ.limits import Limits
from mooraged.differ.sink import DEVICE_MAX, Sink, entry_name, may_be_set, time_of
from mooraged.differ.tar.events import Data, Entry, TarError, Type
from mooraged.differ.whiteouts import Whiteouts, remove_entry

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Extractor(Sink[int]):
    """Makes the entries below the folder `root`; folders are known by their descriptors.

    `lower` are the folders of the layers below, the uppermost first, where `root` has none of their files: a folder that
    the archive leaves out, but has files in, gets the attributes that it has there. With `apart` they will be known only
    later. The process's umask must be 0.

    A `helper` may make small files, where `root` was empty and deletions leave what the layer has made. Before anything that
    could depend on what it makes, it is waited for; what two entries want in one place it refuses to make (`Refused`).
    """

    def __init__(
        self,
        root: str,
        whiteouts: Whiteouts,
        limits: Limits,
        lower: Sequence[str] = (),
        *,
        apart: bool = False,
        helper: Helper | None = None,
    ) -> None:
        super().__init__(
            limits,
            {
                Type.FILE: self._make_file,
                Type.LINK: self._make_link,
                Type.SYMLINK: self._make_symlink,
                Type.CHARACTER_DEVICE: self._make_node,
                Type.BLOCK_DEVICE: self._make_node,
                Type.FIFO: self._make_node,
                Type.FOLDER: self._make_folder,
            },
        )
        self._folders = Folders(root, self._folder_made, self._folder_opened)
        self._root = root
        self._whiteouts = whiteouts
        self._lower = lower
        self._apart = apart
        self._copied = 0
        self._helper = helper
        self._times: dict[bytes, int] = {}
        self._file = -1
        self._end = 0
        self._owner = os.geteuid(), os.getegid()
        self._complete = False
        """Whether the file was made with its owner and mode."""
        self._plain: bool | None = None
        """Whether all that is made gets the owner and mode that it is made with, folders that give their group aside; None
        before it was seen. An access control list of a folder, or a mount option, may change them."""

    def finish(self) -> None:
        """The archive is complete: set what could not be set before, the times of folders."""
        self._await_helper()
        for path, time in tuple(self._times.items()):
            parent, _, name = path.rpartition(b"/")
            try:
                fd = os.open(name, _FOLDER, dir_fd=self._folders.find(parent))
            except OSError as error:
                # Replaced or removed by a later entry.
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue
                raise
            try:
                os.utime(fd, ns=(time, time))
            finally:
                os.close(fd)

    def close(self) -> None:
        """Release the descriptors. Nobody makes files any more when this returns."""
        if self._helper is not None:
            self._helper.stop()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._folders.close()

    def _folder(self, path: bytes) -> int:
        return self._folders.make(path)

    def _await_helper(self) -> None:
        if self._helper is not None:
            self._helper.wait()

    def _remove(self, fd: int, name: bytes, uid: int, gid: int) -> None:
        self._await_helper()
        if self._whiteouts.remove(fd, name, uid, gid):
            self._folders.forget()

    def _empty(self, fd: int) -> None:
        self._await_helper()
        if self._whiteouts.opaque(fd):
            self._folders.forget()

    def _is_plain(self, entry: Entry, fd: int) -> bool:
        """Whether what is made for the entry in the folder `fd` has its owner and mode at once, and has nothing else."""
        return (
            self._plain is True
            and not (entry.mode & _SPECIAL_BITS or entry.xattrs)
            and (entry.uid, entry.gid) == self._owner
            and not self._folders.gives_group(fd)
        )

    def _make_whole(self, entry: Entry, path: bytes, folder: int, name: bytes, view: memoryview) -> None:
        """The helper is for small files of many, which are complete as they are made."""
        helper = self._helper
        if (
            helper is None
            or not (self._is_plain(entry, folder) and helper.wants(entry.size, entry.offset))
            or not helper.offer(path[: -len(name)], folder, name, entry.mode, time_of(entry), view)
        ):
            super()._make_whole(entry, path, folder, name, view)

    def _make_file(self, entry: Entry, path: bytes, fd: int, name: bytes) -> None:
        simple = not (entry.mode & _SPECIAL_BITS or entry.xattrs)
        mode = entry.mode if simple else 0o600
        try:
            self._file = os.open(name, _CREATE, mode, dir_fd=fd)
        except FileExistsError:
            fd = self._clear(path, fd, name)
            self._file = os.open(name, _CREATE, mode, dir_fd=fd)
        self._end = 0
        self._complete = (
            simple
            and (entry.uid, entry.gid) == self._owner
            and not self._folders.gives_group(fd)
            and (self._see(entry) if self._plain is None else self._plain)
        )
        self._whiteouts.made(fd, name)

    def _see(self, entry: Entry) -> bool:
        """Look at the file that was made for `entry`: whether it has got the owner and mode."""
        found = os.fstat(self._file)
        self._plain = (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (*self._owner, entry.mode)
        return self._plain

    def _write(self, entry: Entry, event: Data) -> None:
        write_at(self._file, event.view, event.offset)
        self._end = event.offset + len(event.view)

    def _finish_file(self, entry: Entry) -> None:
        """The file is written: its size where it ends in a hole, then owner, attributes and mode, in this order, since
        a new owner clears capabilities and set-id bits; those of most files are right as they were made."""
        file = self._file
        if self._end < entry.size:
            os.ftruncate(file, entry.size)
        if not self._complete:
            os.fchown(file, entry.uid, entry.gid)
            for key, value in entry.xattrs.items():
                _set_xattr(file, key, value)
            os.fchmod(file, entry.mode)
        time = time_of(entry)
        os.utime(file, ns=(time, time))
        self._file = -1
        os.close(file)

    def _make_folder(self, entry: Entry, path: bytes, fd: int, name: bytes) -> None:
        complete = self._is_plain(entry, fd)
        try:
            os.mkdir(name, entry.mode if complete else 0o700, dir_fd=fd)
        except FileExistsError:
            complete = False
            self._await_helper()
            if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                fd = self._clear(path, fd, name)
                os.mkdir(name, 0o700, dir_fd=fd)
                self._whiteouts.replaced(fd, name)
        self._whiteouts.made(fd, name)
        if not complete:
            self._set_attributes(entry, fd, name)
        if entry.mode & stat.S_ISGID:
            self._folders.forget()
        self._times[path] = time_of(entry)

    def _make_link(self, entry: Entry, path: bytes, fd: int, name: bytes) -> None:
        """A hard link; it has the attributes of the file that it is. The target may be a symbolic link, itself."""
        self._await_helper()
        target_parent, target_name = link_target(entry.link, path, self._limits.max_depth, self._limits.max_path)
        parent = path.rpartition(b"/")[0]
        try:
            self._link(target_parent, target_name, fd, name)
        except FileExistsError:
            fd = self._clear(path, self._folders.make(parent), name)
            self._link(target_parent, target_name, fd, name)
        self._whiteouts.made(self._folders.make(parent), name)

    def _link(self, target_parent: bytes, target_name: bytes, fd: int, name: bytes) -> None:
        # The search for the target's folder may close descriptors of others: this one is held by a copy.
        held = os.dup(fd)
        try:
            source = self._folders.find(target_parent)
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=held, follow_symlinks=False)
        except FileNotFoundError as error:
            if self._apart:
                # Perhaps a layer below has it: to be seen when it is extracted onto them.
                self.incomplete = True
                return
            if not self._copy_up(target_parent, target_name):
                raise TarError(f"the target of the hard link, {entry_name(target_name)}, is not there") from error
            source = self._folders.find(target_parent)
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=held, follow_symlinks=False)
        finally:
            os.close(held)

    def _copy_up(self, parent: bytes, name: bytes) -> bool:
        """Copy a file of the layers below to where it shows there; False where they show none."""
        found = find_below(self._lower, b"/".join((parent, name)) if parent else name)
        if found is None:
            return False
        try:
            if stat.S_ISDIR(os.fstat(found).st_mode):
                return False
            self._copied += copy_up(found, self._folders.make(parent), name, self._limits.max_size - self._copied)
        finally:
            os.close(found)
        return True

    def _make_symlink(self, entry: Entry, path: bytes, fd: int, name: bytes) -> None:
        try:
            os.symlink(entry.link, name, dir_fd=fd)
        except FileExistsError:
            fd = self._clear(path, fd, name)
            os.symlink(entry.link, name, dir_fd=fd)
        self._whiteouts.made(fd, name)
        self._set_attributes(entry, fd, name)

    def _make_node(self, entry: Entry, path: bytes, fd: int, name: bytes) -> None:
        if not (0 <= entry.major <= DEVICE_MAX and 0 <= entry.minor <= DEVICE_MAX):
            raise TarError(f"device {entry.major}:{entry.minor} is out of range")
        kind = _NODE_MODES[entry.type]
        device = os.makedev(entry.major, entry.minor) if entry.type is not Type.FIFO else 0
        try:
            os.mknod(name, kind | 0o600, device, dir_fd=fd)
        except FileExistsError:
            fd = self._clear(path, fd, name)
            os.mknod(name, kind | 0o600, device, dir_fd=fd)
        self._whiteouts.made(fd, name)
        self._set_attributes(entry, fd, name)

    def _clear(self, path: bytes, fd: int, name: bytes) -> int:
        """Remove what stands where an entry is to be; returns the folder's descriptor, which may be another one then."""
        self._await_helper()
        if not remove_entry(fd, name):
            return fd
        self._times.pop(path, None)
        self._folders.forget()
        return self._folders.make(path.rpartition(b"/")[0])

    def _set_attributes(self, entry: Entry, fd: int, name: bytes) -> None:
        """Owner, extended attributes, mode and times of what is no regular file, just made or found to be a folder."""
        os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
        if entry.xattrs:
            path = os.fsencode(f"/proc/self/fd/{fd}/") + name
            for key, value in entry.xattrs.items():
                self._set_folder_xattr(path, key, value)
        if entry.type is not Type.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=fd)
        if entry.type is not Type.FOLDER:
            time = time_of(entry)
            os.utime(name, ns=(time, time), dir_fd=fd, follow_symlinks=False)

    def _set_folder_xattr(self, path: bytes, key: str, value: bytes) -> None:
        _set_xattr(path, key, value)
        if key.startswith("system."):
            self._plain = False

    def _folder_opened(self, path: bytes, status: os.stat_result) -> None:
        """What is put into a folder, or removed from it, leaves its time as it is, unless an entry says otherwise."""
        self._times.setdefault(path, status.st_mtime_ns)

    def _folder_made(self, path: bytes, fd: int, name: bytes) -> None:
        """A folder that the archive has files in, and no entry (yet): as it is in the layers below, if it is there."""
        self._whiteouts.made(fd, name)
        found = None if hides(self._root, path) else find_below(self._lower, path)
        if found is None:
            self.incomplete = True
            return
        try:
            attributes = os.fstat(found)
            if stat.S_ISDIR(attributes.st_mode):
                self._copy_attributes(found, attributes, fd, name)
                self._times[path] = attributes.st_mtime_ns
        finally:
            os.close(found)

    def _copy_attributes(self, source: int, attributes: os.stat_result, fd: int, name: bytes) -> None:
        os.chown(name, attributes.st_uid, attributes.st_gid, dir_fd=fd, follow_symlinks=False)
        origin = f"/proc/self/fd/{source}"
        target = os.fsencode(f"/proc/self/fd/{fd}/") + name
        for key in os.listxattr(origin):
            self._set_folder_xattr(target, key, os.getxattr(origin, key))
        os.chmod(name, stat.S_IMODE(attributes.st_mode), dir_fd=fd)


_NODE_MODES = {
    Type.CHARACTER_DEVICE: stat.S_IFCHR,
    Type.BLOCK_DEVICE: stat.S_IFBLK,
    Type.FIFO: stat.S_IFIFO,
}


def _set_xattr(target: int | bytes, key: str, value: bytes) -> None:
    """Set an extended attribute, unless it is not a layer's to set, or not to be had on this file or file system: user
    attributes belong to files and folders, others depend on security modules (containerd leaves them out too)."""
    if not may_be_set(key):
        return
    try:
        os.setxattr(target, key, value, follow_symlinks=isinstance(target, int))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP or (error.errno == errno.EPERM and key.startswith("user.")):
            return
        raise
