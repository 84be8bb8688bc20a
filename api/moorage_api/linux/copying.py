"""Copy the bytes of a file without reading them."""

from __future__ import annotations

import errno
import os

_CHUNK = 1 << 30
_NO_COPY_IN_KERNEL = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


def copy_data(source: int, target: int, found: os.stat_result, at: int = 0) -> None:
    """Copy the bytes of the file `source`, which is as `found` says, to the offset `at` of `target`.

    Within the kernel, which shares them where the file system can. What is a hole is left alone, at the end too.
    """
    size = found.st_size
    if found.st_blocks * 512 >= size:
        _copy_range(source, target, 0, size, at)
        return
    start = 0
    while start < size:
        try:
            start = os.lseek(source, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, min(end, size), at)
        start = end


def _copy_range(source: int, target: int, start: int, end: int, at: int) -> None:
    while start < end:
        try:
            copied = os.copy_file_range(source, target, min(end - start, _CHUNK), start, at + start)
        except OSError as error:
            if error.errno not in _NO_COPY_IN_KERNEL:
                raise
            os.lseek(target, at + start, os.SEEK_SET)
            copied = os.sendfile(target, source, start, min(end - start, _CHUNK))
        if copied == 0:
            return
        start += copied
