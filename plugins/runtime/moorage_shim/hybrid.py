"""crun on hybrid cgroups: hide the second hierarchy from it.

With cgroup v1 controllers and a cgroup2 mount at /sys/fs/cgroup/unified, crun 1.8 wants to use both and fails where it
may not. Seen without that mount it uses v1 alone, which is where the controllers are.
"""

from __future__ import annotations

from moorage_api.linux import syscalls
from moorage_shim import cgroups


def hide_unified_cgroup() -> None:
    """Give the calling process (a forked child) a mount namespace of its own without /sys/fs/cgroup/unified.

    The copy of a shared mount stays a peer of its original, so that a container's `rshared` volumes still reach the
    host. Only the folder of the cgroup mounts is made private first, or the unmounting would reach it too.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", cgroups.ROOT, "", syscalls.MS_PRIVATE)
    syscalls.umount2(cgroups.UNIFIED, syscalls.MNT_DETACH)
