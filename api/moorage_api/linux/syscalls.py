"""System calls that Python 3.11 does not wrap, through ctypes.

Every function raises `OSError` with the errno and, where there is one, the path. Every descriptor made here is
close-on-exec. The GIL is released during a call. Numbers are those of x86-64 and arm64, whose calls since Linux 5.1
share one table. Flags and their meaning: the manual page of each call, section 2.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
AT_RECURSIVE = 0x8000

CLONE_NEWTIME = 0x00000080
CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24

MNT_FORCE = 1
MNT_DETACH = 2
MNT_EXPIRE = 4
UMOUNT_NOFOLLOW = 8

_SYNC_FILE_RANGE_WRITE = 2

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR_IDMAP = 0x00100000

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_CLONE3 = 435
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442
# Older than the table that all architectures share; elsewhere it is ENOSYS.
_NR_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}.get(os.uname().machine, -1)

# openat2 gives EAGAIN where a rename elsewhere made ".." unsafe to judge; the next try nearly always succeeds.
_OPENAT2_TRIES = 32

_libc = ctypes.CDLL(None, use_errno=True)
_locked = ctypes.PyDLL(None, use_errno=True)  # keeps the GIL, for a child has no other thread to take it from
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


class _CloneArguments(ctypes.Structure):
    """`struct clone_args`, as clone3(2) had it first."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls")
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _SchedAttributes(ctypes.Structure):
    """`struct sched_attr`, as sched_setattr(2) had it first."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def _error(path: StrOrBytesPath | None = None, path2: StrOrBytesPath | None = None) -> OSError:
    number = ctypes.get_errno()
    if path is None:
        return OSError(number, os.strerror(number))
    if path2 is None:
        return OSError(number, os.strerror(number), os.fsdecode(path))
    return OSError(number, os.strerror(number), os.fsdecode(path), None, os.fsdecode(path2))


def openat2(dirfd: int, path: StrOrBytesPath, flags: int, mode: int = 0, resolve: int = RESOLVE_IN_ROOT) -> int:
    """Open `path` below `dirfd`; by default `dirfd` is the root of every `/`, `..` and symbolic link on the way."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    name = os.fsencode(path)
    for _ in range(_OPENAT2_TRIES):
        fd = _libc.syscall(_NR_OPENAT2, dirfd, ctypes.c_char_p(name), ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    raise _error(path)


def clone(flags: int) -> int:
    """A child in namespaces of its own (`CLONE_NEW*`): 0 in the child, its pid in the caller. For processes with threads: the
    handlers that libraries set up for a fork do not run, and gRPC's would give the child a thread. So the child may do
    no more than a few system calls, and `os._exit`. The GIL is held."""
    arguments = _CloneArguments(flags=flags, exit_signal=signal.SIGCHLD)
    pid = _locked.syscall(_NR_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if pid < 0:
        raise _error()
    return int(pid)


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces, or give it a file system state of its own (`CLONE_FS`)."""
    if _libc.unshare(flags) != 0:
        raise _error()


def setns(fd: int, nstype: int = 0) -> None:
    """Move the calling thread into the namespace of `fd`, a namespace file or a pidfd; `nstype` 0 allows any."""
    if _libc.setns(fd, nstype) != 0:
        raise _error()


def mount(
    source: StrOrBytesPath, target: StrOrBytesPath, fstype: str = "", flags: int = 0, data: StrOrBytesPath = ""
) -> None:
    """mount(2), as it is. `moorage_api.linux.mount` takes fstab options."""
    result = _libc.mount(
        os.fsencode(source) or None,
        os.fsencode(target),
        fstype.encode() or None,
        flags,
        os.fsencode(data) or None,
    )
    if result != 0:
        raise _error(source or fstype, target)


def umount2(target: StrOrBytesPath, flags: int = 0) -> None:
    """umount2(2), as it is: `EINVAL` where nothing is mounted, `EBUSY` where it is in use."""
    if _libc.umount2(os.fsencode(target), flags) != 0:
        raise _error(target)


def open_tree(dirfd: int, path: StrOrBytesPath, flags: int = OPEN_TREE_CLONE) -> int:
    """A descriptor of the mount at `path`; with `OPEN_TREE_CLONE`, of a detached copy that dies with it unless moved."""
    fd = _libc.syscall(
        _NR_OPEN_TREE, dirfd, ctypes.c_char_p(os.fsencode(path)), ctypes.c_uint(flags | OPEN_TREE_CLOEXEC)
    )
    if fd < 0:
        raise _error(path)
    return int(fd)


def move_mount(tree: int, target: StrOrBytesPath, dirfd: int = AT_FDCWD) -> None:
    """Attach the detached mount `tree` at `target` below `dirfd`; an empty `target` means `dirfd` itself."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if target else MOVE_MOUNT_T_EMPTY_PATH)
    result = _libc.syscall(
        _NR_MOVE_MOUNT, tree, ctypes.c_char_p(b""), dirfd, ctypes.c_char_p(os.fsencode(target)), ctypes.c_uint(flags)
    )
    if result != 0:
        raise _error(target)


class FileSystemContext:
    """A file system about to be mounted (fsopen(2)): options one at a time, each of any length. `OSError` has what the
    kernel says of it."""

    def __init__(self, fstype: str) -> None:
        self._type = fstype
        self._fd = _libc.syscall(_NR_FSOPEN, ctypes.c_char_p(fstype.encode()), _FSOPEN_CLOEXEC)
        if self._fd < 0:
            raise _error(fstype)

    def set(self, key: str, value: str | None = None) -> None:
        """Set an option; None for one that is a word alone."""
        if value is None:
            self._configure(_FSCONFIG_SET_FLAG, key.encode(), None)
        else:
            self._configure(_FSCONFIG_SET_STRING, key.encode(), os.fsencode(value))

    def mount(self, attributes: int = 0) -> int:
        """Make the file system; returns the descriptor of a mount of it that is attached nowhere. `attributes` are
        `MOUNT_ATTR_…`."""
        self._configure(_FSCONFIG_CMD_CREATE, None, None)
        fd = _libc.syscall(_NR_FSMOUNT, self._fd, _FSMOUNT_CLOEXEC, ctypes.c_uint(attributes))
        if fd < 0:
            raise self._failure()
        return int(fd)

    def close(self) -> None:
        os.close(self._fd)

    def _configure(self, command: int, key: bytes | None, value: bytes | None) -> None:
        if _libc.syscall(_NR_FSCONFIG, self._fd, command, ctypes.c_char_p(key), ctypes.c_char_p(value), 0) != 0:
            raise self._failure(os.fsdecode(b"=".join(part for part in (key, value) if part)))

    def _failure(self, option: str = "") -> OSError:
        """The error of the last call, with what the context says of it."""
        number = ctypes.get_errno()
        said = [part for part in (os.strerror(number), option) if part]
        while message := self._message():
            said.append(message)
        return OSError(number, "; ".join(said), self._type)

    def _message(self) -> str:
        try:
            return os.read(self._fd, 4096).decode("utf-8", "replace").strip()
        except OSError:
            # ENODATA: there are no more.
            return ""


def mount_setattr(
    fd: int, *, attr_set: int = 0, attr_clr: int = 0, propagation: int = 0, userns_fd: int = 0, recursive: bool = False
) -> None:
    """Change the mount that `fd` refers to: read-only, its propagation, or ID-mapped (`MOUNT_ATTR_IDMAP`, `userns_fd`)."""
    attr = _MountAttr(attr_set, attr_clr, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    result = _libc.syscall(
        _NR_MOUNT_SETATTR,
        fd,
        ctypes.c_char_p(b""),
        ctypes.c_uint(flags),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )
    if result != 0:
        raise _error()


def renameat2(
    source: StrOrBytesPath,
    target: StrOrBytesPath,
    flags: int = 0,
    *,
    source_dirfd: int = AT_FDCWD,
    target_dirfd: int = AT_FDCWD,
) -> None:
    """Rename; with `RENAME_NOREPLACE` an existing target is `EEXIST`, with `RENAME_EXCHANGE` the two change places."""
    if _libc.renameat2(source_dirfd, os.fsencode(source), target_dirfd, os.fsencode(target), flags) != 0:
        raise _error(source, target)


def syncfs(fd: int) -> None:
    """Write all of the file system that `fd` lies on to disk; since Linux 5.8 an earlier write error is reported here."""
    if _libc.syncfs(fd) != 0:
        raise _error()


def start_writeback(fd: int) -> None:
    """Have the kernel begin to write what is dirty of a file to disk, and wait for none of it: sync_file_range(2)."""
    if _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)) != 0:
        raise _error()


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2) for options with numbers as arguments."""
    result = _libc.prctl(option, arg2, arg3, arg4, arg5)
    if result < 0:
        raise _error()
    return int(result)


def set_child_subreaper(enable: bool = True) -> None:
    """Make this process the parent of its descendants' orphans; not inherited by children."""
    prctl(PR_SET_CHILD_SUBREAPER, int(enable))


def set_parent_death_signal(signal: int) -> None:
    """Have the kernel send `signal` when the *thread* that made this process ends; cleared in its children."""
    prctl(PR_SET_PDEATHSIG, signal)


def set_process_name(name: str) -> None:
    """The name in `ps` and `/proc/PID/comm`, cut to 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def set_scheduling(policy: int, nice: int, slice: int) -> None:
    """Give the calling thread a policy (`os.SCHED_OTHER` or `os.SCHED_BATCH`), a niceness, and a slice in nanoseconds: since
    Linux 6.12 whoever has a shorter one runs at once in its place, before that it means nothing. What the thread
    starts inherits all three. sched_setattr(2)."""
    attributes = _SchedAttributes(ctypes.sizeof(_SchedAttributes), policy, nice=nice, runtime=slice)
    if _libc.syscall(_NR_SCHED_SETATTR, 0, ctypes.byref(attributes), ctypes.c_uint(0)) != 0:
        raise _error()


def pidfd_open(pid: int) -> int:
    """A descriptor of the process `pid`, readable when it has ended. `ESRCH` where there is none."""
    return os.pidfd_open(pid, 0)
