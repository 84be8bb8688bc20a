"""Perform mounts as snapshotters describe them (`moorage_api.mounts.Mount`), and read what is mounted.

Options are those of `fstab`: words that the kernel has a flag for become flags, everything else is data for the file
system, as containerd's mount package sorts them. Failures are `OSError` with errno and paths.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from moorage_api.linux import idmapped, syscalls
from moorage_api.linux.tall_overlay import attach_tree, mount_tall
from moorage_api.linux.thread import in_own_thread
from moorage_api.mounts import Mount

# Word: (flags to set, flags to clear).
_FLAGS: dict[str, tuple[int, int]] = {
    "async": (0, syscalls.MS_SYNCHRONOUS),
    "atime": (0, syscalls.MS_NOATIME),
    "bind": (syscalls.MS_BIND, 0),
    "dev": (0, syscalls.MS_NODEV),
    "diratime": (0, syscalls.MS_NODIRATIME),
    "dirsync": (syscalls.MS_DIRSYNC, 0),
    "exec": (0, syscalls.MS_NOEXEC),
    "mand": (syscalls.MS_MANDLOCK, 0),
    "noatime": (syscalls.MS_NOATIME, 0),
    "nodev": (syscalls.MS_NODEV, 0),
    "nodiratime": (syscalls.MS_NODIRATIME, 0),
    "noexec": (syscalls.MS_NOEXEC, 0),
    "nomand": (0, syscalls.MS_MANDLOCK),
    "norelatime": (0, syscalls.MS_RELATIME),
    "nostrictatime": (0, syscalls.MS_STRICTATIME),
    "nosuid": (syscalls.MS_NOSUID, 0),
    "rbind": (syscalls.MS_BIND | syscalls.MS_REC, 0),
    "relatime": (syscalls.MS_RELATIME, 0),
    "remount": (syscalls.MS_REMOUNT, 0),
    "ro": (syscalls.MS_RDONLY, 0),
    "rw": (0, syscalls.MS_RDONLY),
    "strictatime": (syscalls.MS_STRICTATIME, 0),
    "suid": (0, syscalls.MS_NOSUID),
    "sync": (syscalls.MS_SYNCHRONOUS, 0),
}
_PROPAGATION: dict[str, int] = {
    "private": syscalls.MS_PRIVATE,
    "rprivate": syscalls.MS_PRIVATE | syscalls.MS_REC,
    "rshared": syscalls.MS_SHARED | syscalls.MS_REC,
    "rslave": syscalls.MS_SLAVE | syscalls.MS_REC,
    "runbindable": syscalls.MS_UNBINDABLE | syscalls.MS_REC,
    "shared": syscalls.MS_SHARED,
    "slave": syscalls.MS_SLAVE,
    "unbindable": syscalls.MS_UNBINDABLE,
}
# Words that ask for more than one system call with these flags and data; no snapshotter here makes them.
_UNSUPPORTED = ("X-containerd.", "X-mount.")

# mount(2) takes one page of data. containerd begins to shorten 512 bytes before the end; so do we.
_PAGE = os.sysconf("SC_PAGESIZE")
_DATA_COMFORTABLE = _PAGE - 512

_BUSY_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Sorted options: `flags` for mount(2), `propagation` for a second call of it, `data` for the file system."""

    flags: int
    propagation: int
    data: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)); `optional` holds the propagation, as `shared:7`."""

    id: int
    parent: int
    device: str
    root: str
    target: str
    options: tuple[str, ...]
    optional: tuple[str, ...]
    type: str
    source: str
    super_options: tuple[str, ...]


def parse_options(options: Sequence[str]) -> MountOptions:
    """Sort fstab words into flags and data. `EOPNOTSUPP` for words that need another way of mounting."""
    flags = propagation = 0
    data: list[str] = []
    for option in options:
        if option in _FLAGS:
            to_set, to_clear = _FLAGS[option]
            flags = (flags | to_set) & ~to_clear
        elif option in _PROPAGATION:
            propagation |= _PROPAGATION[option]
        elif option == "loop" or option.startswith(_UNSUPPORTED):
            raise OSError(errno.EOPNOTSUPP, f"mount option {option!r} is not supported here")
        elif option != "defaults":
            data.append(option)
    return MountOptions(flags, propagation, tuple(data))


def mount(request: Mount, target: str, namespace: int | None = None) -> None:
    """Perform one mount at `target`, whatever `request.target` says; undone if its second step fails.

    `namespace` is the descriptor of a user namespace with the mapping of an ID-mapped mount, where there is one already.
    """
    _adjust(_attach(request, target, namespace), target)


def mount_all(mounts: Sequence[Mount], target: str) -> None:
    """Build a root file system at the folder `target` from `mounts`, in order; all of them, or none.

    A mount's own `target` is resolved with `target` as its root, so that no link in an image leads out of it.
    """
    done: list[str] = []
    try:
        for request in mounts:
            if request.target:
                done.append(_mount_inside(request, target))
            else:
                mount(request, target)
                done.append(target)
    except OSError:
        for mounted in reversed(done):
            syscalls.umount2(mounted, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        raise


def unmount(target: str, flags: int = syscalls.UMOUNT_NOFOLLOW, *, patience: float = 2.0) -> None:
    """Take down the topmost mount at `target`; nothing mounted, or nothing there, is fine.

    A busy mount is tried again for `patience` seconds, then `EBUSY`: someone may have a file open for a moment.
    """
    _unmount_one(target, flags, time.monotonic() + patience)


def unmount_all(target: str, flags: int = syscalls.UMOUNT_NOFOLLOW, *, patience: float = 2.0) -> None:
    """Take down every mount that is stacked at `target` itself; otherwise as `unmount`."""
    deadline = time.monotonic() + patience
    while _unmount_one(target, flags, deadline):
        pass


def unmount_recursive(folder: str, flags: int = syscalls.UMOUNT_NOFOLLOW, *, patience: float = 2.0) -> None:
    """Take down every mount at or below `folder`, the innermost first; each otherwise as `unmount`."""
    prefix = folder.rstrip("/") + "/"
    for entry in reversed(list(mountinfo())):
        if entry.target == folder or entry.target.startswith(prefix):
            unmount(entry.target, flags, patience=patience)


@contextmanager
def temporary_mount(mounts: Sequence[Mount], folder: str | None = None) -> Iterator[str]:
    """Mount at a new folder (below `folder`, or the system's for temporary files); unmounted and removed at the end.

    The folder is removed with rmdir only: were the unmount to fail, nothing of the mounted files could be lost.
    """
    import tempfile

    target = tempfile.mkdtemp(prefix="moorage-mount-", dir=folder)
    try:
        mount_all(mounts, target)
        try:
            yield target
        finally:
            unmount_recursive(target)
    finally:
        os.rmdir(target)


def mountinfo(path: str = "/proc/thread-self/mountinfo", types: Collection[str] = ()) -> Iterator[MountInfo]:
    """What is mounted in this thread's mount namespace, or in the one whose file is given; parents come before children.

    A thread may have a mount namespace of its own; `/proc/self` would tell of that of the process's first thread. `types`
    are those of the file systems that are asked for: on a node with many mounts most of the time goes into the others.
    """
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if not types or line.partition(" - ")[2].partition(" ")[0] in types:
                yield _parse_mountinfo(line)


def is_mountpoint(target: str) -> bool:
    """Whether something is mounted at exactly `target`, a path without symbolic links. Bind mounts count."""
    return any(entry.target == target for entry in mountinfo())


def _unmount_one(target: str, flags: int, deadline: float) -> bool:
    """Take down one mount; False where there was none."""
    while True:
        try:
            syscalls.umount2(target, flags)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                return False
            if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_BUSY_PAUSE)
        else:
            return True


def _parse_mountinfo(line: str) -> MountInfo:
    fields = line.rstrip("\n").split(" ")
    separator = fields.index("-", 6)
    return MountInfo(
        id=int(fields[0]),
        parent=int(fields[1]),
        device=fields[2],
        root=_unescape(fields[3]),
        target=_unescape(fields[4]),
        options=tuple(fields[5].split(",")),
        optional=tuple(fields[6:separator]),
        type=fields[separator + 1],
        source=_unescape(fields[separator + 2]),
        super_options=tuple(fields[separator + 3].split(",")),
    )


def _unescape(field: str) -> str:
    """Undo the kernel's octal escapes: space, tab, newline, backslash and `#`."""
    if "\\" not in field:
        return field
    head, *parts = field.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts)


def _attach(request: Mount, target: str, namespace: int | None = None) -> MountOptions:
    """The first call of mount(2); returns the options, for the calls that follow."""
    if idmapped.is_mapped(request):
        return _attach_mapped(request, target, namespace)
    base, options = _shorten(request)
    parsed = parse_options(options)
    data = ",".join(parsed.data)
    if len(os.fsencode(data)) >= _PAGE:
        if request.type != "overlay":
            raise OSError(errno.E2BIG, f"{len(data)} bytes of mount options, a page is the most", target)
        parsed = parse_options(request.options)
        mount_tall(parsed.data, parsed.flags, target)
        return parsed
    if not parsed.flags & syscalls.MS_REMOUNT or data:
        _mount_from(base, request.source, target, request.type, parsed.flags, data)
    return parsed


def _attach_mapped(request: Mount, target: str, namespace: int | None) -> MountOptions:
    attach_tree(idmapped.open_mapped(request, mount, namespace), target)
    return parse_options(idmapped.without_mapping(request).options)


def _adjust(options: MountOptions, target: str) -> None:
    """What mount(2) does only to a mount that is there: its propagation, and a bind mount made read-only."""
    try:
        if options.propagation:
            syscalls.mount("", target, "", options.propagation)
        if options.flags & syscalls.MS_BIND and options.flags & syscalls.MS_RDONLY:
            syscalls.mount("", target, "", options.flags | syscalls.MS_REMOUNT)
    except OSError:
        if not options.flags & syscalls.MS_REMOUNT:
            syscalls.umount2(target, syscalls.MNT_DETACH)
        raise


def _mount_inside(request: Mount, root: str) -> str:
    """Mount at `request.target` inside `root`; returns the true path of it.

    The place is opened again for the second step: the first descriptor is of the folder beneath the new mount.
    """
    rootfd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    fds = [rootfd]
    try:
        fds.append(syscalls.openat2(rootfd, request.target, os.O_PATH))
        options = _attach(request, f"/proc/self/fd/{fds[-1]}")
        fds.append(syscalls.openat2(rootfd, request.target, os.O_PATH))
        _adjust(options, f"/proc/self/fd/{fds[-1]}")
        return os.readlink(f"/proc/self/fd/{fds[-1]}")
    finally:
        for fd in fds:
            os.close(fd)


def _shorten(request: Mount) -> tuple[str, Sequence[str]]:
    """Make an overlay's options fit a page: lower layers relative to the folder that all share, which is returned.

    An image of a hundred layers needs it. containerd does the same, so mounts look alike in `/proc/mounts`.
    """
    if request.type != "overlay" or len(",".join(request.options)) < _DATA_COMFORTABLE:
        return "", request.options
    options = list(request.options)
    index = next((i for i, option in enumerate(options) if option.startswith("lowerdir=")), -1)
    if index < 0:
        return "", options
    lower = options[index].removeprefix("lowerdir=").split(":")
    if len(lower) < 2 or not all(path.startswith("/") for path in lower):
        return "", options
    base = os.path.commonpath(lower)
    options[index] = "lowerdir=" + ":".join(os.path.relpath(path, base) for path in lower)
    return base, options


def _mount_from(base: str, source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """mount(2) with `base` as the working directory, if it is given.

    The working directory belongs to the process, so a thread with a file system state of its own makes the call and
    ends after it: no other thread ever sees the change.
    """
    if not base:
        syscalls.mount(source, target, fstype, flags, data)
        return
    target = os.path.abspath(target)

    def run() -> None:
        syscalls.unshare(syscalls.CLONE_FS)
        os.chdir(base)
        syscalls.mount(source, target, fstype, flags, data)

    in_own_thread(run, "mount")
