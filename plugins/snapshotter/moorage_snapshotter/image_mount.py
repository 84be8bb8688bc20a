"""Mounts EROFS images: from their files where the kernel can (Linux 6.12), through loop devices where it cannot."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import tempfile
from pathlib import Path

from moorage_api.erofs.folder import write_folder
from moorage_api.erofs.layer import IMAGE, keep_image, new_image
from moorage_api.linux import syscalls
from moorage_api.linux.tree import remove_tree

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_READ_ONLY, _AUTOCLEAR = 1, 4
# struct loop_config: the file's descriptor, the block size, then struct loop_info64, of which the flags alone are set.
_CONFIG = struct.Struct("=II5Q4I64s64s32s2Q8Q")
_TRIES = 32


def mount_image(image: str, target: str) -> None:
    """Mount the image, read-only, at the folder `target`. `OSError`."""
    try:
        syscalls.mount(image, target, "erofs", syscalls.MS_RDONLY)
    except OSError as error:
        # What a kernel says that wants a block device.
        if error.errno != errno.ENOTBLK:
            raise
        mount_by_loop(image, target)


def mount_by_loop(image: str, target: str) -> None:
    """As `mount_image`, by a loop device that goes with the mount."""
    loop = _attach(image)
    try:
        syscalls.mount(os.readlink(f"/proc/self/fd/{loop}"), target, "erofs", syscalls.MS_RDONLY)
    finally:
        # The device lives as long as the mount, and no longer than this where there is none.
        os.close(loop)


def erofs_problem(root: Path) -> str:
    """Why layers cannot be kept as images below `root`; empty when they can. Found by keeping one."""
    probe = tempfile.mkdtemp(prefix="erofs-probe-", dir=root)
    try:
        os.mkdir(f"{probe}/mounted")
        with new_image(probe) as fd:
            write_folder(fd, probe)
            keep_image(fd, probe)
        mount_image(f"{probe}/{IMAGE}", f"{probe}/mounted")
        try:
            found = os.listdir(f"{probe}/mounted")
        finally:
            syscalls.umount2(f"{probe}/mounted", syscalls.MNT_DETACH)
        return "" if found == ["mounted"] else f"{root}: the kernel reads EROFS images wrongly"
    except OSError as error:
        return f"{root}: images cannot be kept and mounted here: {error.strerror}"
    finally:
        remove_tree(probe)


def _attach(image: str) -> int:
    """A descriptor of a loop device with the image, which ends with its last use."""
    file = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    info = (0,) * 8 + (_READ_ONLY | _AUTOCLEAR,)
    config = _CONFIG.pack(file, 0, *info, os.fsencode(image)[-63:], b"", b"", 0, 0, *(0,) * 8)
    try:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                # Somebody else was faster.
                if error.errno != errno.EBUSY:
                    raise
            else:
                return device
        raise OSError(errno.EBUSY, "no loop device is free", image)
    finally:
        os.close(control)
        os.close(file)
