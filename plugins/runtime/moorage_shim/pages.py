"""Find the pages of code that a keeper need not have while it rests.

What a process has run stays mapped, and counts as its share though nobody needs it. These pages are the kernel's cache of
files: without a mapping they stay where they are, and come back at the next use by themselves. That costs some microseconds
at the end of a rest.
"""

from __future__ import annotations

import posix

from moorage_shim.libc import Part

_READ = 1 << 20
# Less is not worth the call.
_LEAST = 1 << 20


def find_code() -> list[Part]:
    """The mappings of files that have never been written to, in this process and whatever it forks; for a rest."""
    found: list[tuple[int, int]] = []
    start = end = 0
    for line in _smaps().splitlines():
        words = line.split()
        if words[0] == b"Anonymous:" and words[1] == b"0" and start < end:
            if found and found[-1][1] == start:
                start = found.pop()[0]
            found.append((start, end))
        elif not words[0].endswith(b":"):
            readonly = words[1] in (b"r-xp", b"r--p") and len(words) > 5 and words[5].startswith(b"/")
            start, end = (int(word, 16) for word in words[0].split(b"-")) if readonly else (0, 0)
    return [Part(start, end - start) for start, end in found if end - start >= _LEAST]


def _smaps() -> bytes:
    fd = posix.open("/proc/self/smaps", posix.O_RDONLY | posix.O_CLOEXEC)
    text = b""
    while part := posix.read(fd, _READ):
        text += part
    posix.close(fd)
    return text
