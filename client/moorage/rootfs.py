"""Who a container's user is, according to the container's own `/etc/passwd` and `/etc/group`."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace

from moorage_api.errors import FailedPrecondition, MoorageError
from moorage_api.linux import mount, syscalls
from moorage_api.mounts import Mount
from moorage_api.oci.user import Accounts, User

_WRITABLE = ("upperdir=", "workdir=")


def user_of_mounts(mounts: Sequence[Mount], user: str) -> User:
    """What `user` (`name`, `uid`, `name:group`, …) means in the root file system that `mounts` make.

    Blocks. The files are read in a mount namespace of a thread of its own, so that nothing is left on the host
    whatever happens. `NotFound` for a name that is not there, `FailedPrecondition` where mounting is not allowed.
    """
    outcome: list[User | MoorageError] = []

    def run() -> None:
        try:
            outcome.append(_read_mounted(mounts, user))
        except MoorageError as error:
            outcome.append(error)
        except OSError as error:
            outcome.append(FailedPrecondition(f"cannot read the users of the image, to find {user!r}: {error}"))

    thread = threading.Thread(target=run, name="moorage-users")
    thread.start()
    thread.join()
    if isinstance(outcome[0], MoorageError):
        raise outcome[0]
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


def _read_mounted(mounts: Sequence[Mount], user: str) -> User:
    syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    # The mount is seen by this thread alone and goes with it, so any folder will do that is there everywhere.
    mount.mount_all([_read_only(entry) for entry in mounts], "/sys")
    return _read("/sys", user)


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


def _read(folder: str, user: str) -> User:
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return Accounts.read(root).resolve(user)
    finally:
        os.close(root)
