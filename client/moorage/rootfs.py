"""Who a container's user is, according to the container's own `/etc/passwd` and `/etc/group`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from moorage_api.errors import FailedPrecondition, MoorageError
from moorage_api.linux import mount, syscalls
from moorage_api.mounts import Mount
from moorage_api.oci.user import Accounts, User

T = TypeVar("T")

_WRITABLE = ("upperdir=", "workdir=")


def user_of_mounts(mounts: Sequence[Mount], user: str, groups: Sequence[str] = ()) -> User:
    """What `user` (`name`, `uid`, `name:group`, …) means in the root file system that `mounts` make, with further groups.

    Blocks. The files are read in a mount namespace of a thread of its own, so that nothing is left on the host
    whatever happens. `NotFound` for a name that is not there, `FailedPrecondition` where mounting is not allowed.
    """
    return with_rootfs(read_only(mounts), f"find the user {user!r}", lambda root: _read(root, user, groups))


def with_rootfs(mounts: Sequence[Mount], what: str, work: Callable[[str], T]) -> T:
    """Call `work` with a folder where `mounts` are, in a mount namespace of a thread of its own: nobody else sees the
    mount, and it ends with the thread whatever happens. Programs that `work` runs see it, too.

    Blocks. `FailedPrecondition`, naming `what`, where mounting is not allowed or reading fails; errors of `work`.
    """
    outcome: list[T] = []
    failure: list[MoorageError] = []

    def run() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
            syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
            # Any folder will do that is there everywhere.
            mount.mount_all(mounts, "/sys")
            outcome.append(work("/sys"))
        except MoorageError as error:
            failure.append(error)
        except OSError as error:
            failure.append(FailedPrecondition(f"cannot {what} in the image: {error}"))

    thread = threading.Thread(target=run, name="moorage-rootfs")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def user_of_process(pid: int, user: str) -> User:
    """What `user` means to the running process `pid`. Blocks. Errors as `user_of_mounts`."""
    try:
        return _read(f"/proc/{pid}/root", user)
    except OSError as error:
        raise FailedPrecondition(f"cannot read the users of the container, to find {user!r}: {error}") from error


def is_root(user: str) -> bool:
    """Whether `user` is root whatever the root file system says."""
    return user in ("", "0", "0:0", "root", "root:root")


def read_only(mounts: Sequence[Mount]) -> list[Mount]:
    """The same root file system, to be read; what is mounted elsewhere for writing stays undisturbed."""
    return [_read_only(entry) for entry in mounts]


def open_inside(root: str, path: str, flags: int) -> int:
    """Open `path` as a process whose root is `root` sees it: no symbolic link leads out. `OSError`."""
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return syscalls.openat2(folder, path, flags | os.O_CLOEXEC, resolve=syscalls.RESOLVE_IN_ROOT)
    finally:
        os.close(folder)


def _read_only(entry: Mount) -> Mount:
    """The same without what can be written: a mounted overlay's upper folder must not be mounted twice."""
    options = tuple(option for option in entry.options if option != "rw")
    if entry.type == "overlay":
        upper = [option.removeprefix("upperdir=") for option in options if option.startswith("upperdir=")]
        options = tuple(option for option in options if not option.startswith(_WRITABLE))
        options = tuple(
            f"lowerdir={':'.join([*upper, option.removeprefix('lowerdir=')])}"
            if option.startswith("lowerdir=")
            else option
            for option in options
        )
    return replace(entry, options=(*options, "ro"))


def _read(folder: str, user: str, groups: Sequence[str] = ()) -> User:
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        accounts = Accounts.read(root)
    finally:
        os.close(root)
    found = accounts.resolve(user)
    further = {accounts.resolve("0", group).gid for group in groups}
    return replace(found, groups=tuple(sorted({*found.groups, *further})))
