"""The system calls of a keeper and its children that Python has no names for; through `_ctypes` alone, since `ctypes`
would be the largest thing in a keeper.

`os.fork` lets Python and its modules prepare the child, and that alone writes to a hundred pages of either side. In
processes with one thread, which zygote and keeper are, nothing needs it: the child goes on as the same thread with the
same locks. Not for a process that has, or had, another thread.
"""

from __future__ import annotations

import _ctypes
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
_MADV_DONTNEED = 4
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Size(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "L"


class _String(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "z"


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "B"


class _Block(_ctypes.Array):  # type: ignore[type-arg]
    """Memory for what only libc looks into; large enough for each of them."""

    _type_ = _Byte
    _length_ = 512


class _Function(_ctypes.CFuncPtr):
    """With the lock of the interpreter held: a child has it too, and nobody to take it back from."""

    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


def _function(name: str) -> _Function:
    return _Function(_ctypes.dlsym(_libc, name))


_libc = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # this process itself
_fork = _function("fork")
_prctl = _function("prctl")
_madvise = _function("madvise")
_unshare = _function("unshare")
_setns = _function("setns")
_mount = _function("mount")
_umount2 = _function("umount2")
_posix_spawn = _function("posix_spawn")
_setflags = _function("posix_spawnattr_setflags")
_setsigdefault = _function("posix_spawnattr_setsigdefault")
_init_actions = _function("posix_spawn_file_actions_init")
_destroy_actions = _function("posix_spawn_file_actions_destroy")
_adddup2 = _function("posix_spawn_file_actions_adddup2")
_addopen = _function("posix_spawn_file_actions_addopen")

_POSIX_SPAWN_SETPGROUP = 2
_POSIX_SPAWN_SETSIGDEF = 4
# A process group of its own, and all signals as a program expects them: also the two that libc uses itself, which it leaves
# ignored otherwise, and that Python's posix_spawn has no names for.
_attributes = _Block()
_setflags(_attributes, _POSIX_SPAWN_SETPGROUP | _POSIX_SPAWN_SETSIGDEF)
_setsigdefault(_attributes, b"\xff" * 128)


def fork() -> int:
    """0 in the child, the child's pid in the parent; `OSError`."""
    return _check(_fork(), "fork")


def posix_spawn(path: str, arguments: Iterable[str], environment: Iterable[bytes], fds: Mapping[int, int]) -> int:
    """Start a program in a child that borrows this process's memory until the program begins: a fork takes many times as
    long. Of the descriptors 0 to 2 it has those in `fds`, by number, else /dev/null. Returns its pid; `OSError`."""
    pid = _Int()
    actions = _Block()
    _init_actions(actions)
    try:
        for number in (0, 1, 2):
            if number in fds:
                _adddup2(actions, fds[number], number)
            else:
                _addopen(actions, number, b"/dev/null", posix.O_RDWR, 0)
        words = [each.encode(errors="surrogateescape") for each in arguments]
        error = _posix_spawn(
            _ctypes.byref(pid),
            path.encode(errors="surrogateescape"),
            actions,
            _attributes,
            _strings(words),
            _strings(list(environment)),
        )
    finally:
        _destroy_actions(actions)
    if error:
        raise OSError(error, "posix_spawn")
    return int(pid.value)


def _strings(values: list[bytes]) -> object:
    """An array of them with a null pointer at its end."""
    return (_String * (len(values) + 1))(*values, None)


def become_subreaper() -> None:
    """Be the parent of the orphans among this process's descendants; not inherited."""
    _check(_prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def die_with_parent(number: int) -> None:
    """Get a signal when the parent ends; not inherited."""
    _check(_prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl")


def set_name(name: bytes) -> None:
    """The process's name in `ps`, up to 15 bytes."""
    _check(_prctl(_PR_SET_NAME, name, 0, 0, 0), "prctl")


class Part:
    """A part of memory. It is made before the fork, for what is made after it costs each child memory of its own."""

    def __init__(self, address: int, length: int) -> None:
        self._address = _Size(address)
        self._length = _Size(length)

    def let_go(self) -> None:
        """Unmap its pages; only for unchanged contents of files, which come back at the next use."""
        _madvise(self._address, self._length, _MADV_DONTNEED)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    _check(_unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter a namespace."""
    _check(_setns(fd, kind), "setns")


def make_private(path: bytes) -> None:
    """Let what happens to a mount be seen in this mount namespace only."""
    _check(_mount(b"", path, None, MS_PRIVATE, None), "mount")


def unmount(path: bytes) -> None:
    """Take a mount away, though it be in use."""
    _check(_umount2(path, MNT_DETACH), "umount2")


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(_ctypes.get_errno(), what)
    return result
