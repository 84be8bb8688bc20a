"""ID-mapped mounts (mount_setattr(2)): files that belong to an id on disk, and to another one in the mount.

The options `uidmap=CONTAINER:HOST:SIZE` and `gidmap=…` ask for one, as containerd's snapshotters write them. A bind mount
is mapped itself; of an overlay the lower layers are, for overlayfs has no mapping of its own: what is written in a
container goes to the upper layer with the ids of the host.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from moorage_api import idmap
from moorage_api.errors import InvalidArgument
from moorage_api.idmap import IdMapping
from moorage_api.linux import syscalls
from moorage_api.linux.thread import in_own_thread
from moorage_api.linux.userns import user_namespace
from moorage_api.mounts import Mount

_UIDS, _GIDS = "uidmap=", "gidmap="
_LOWER = "lowerdir="


def options(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The mount options that a snapshot's labels ask for."""
    pairs = ((_UIDS, idmap.UID_LABEL), (_GIDS, idmap.GID_LABEL))
    return tuple(f"{option}{labels[label]}" for option, label in pairs if label in labels)


def is_mapped(request: Mount) -> bool:
    """Whether a mount is to be ID-mapped."""
    return any(option.startswith((_UIDS, _GIDS)) for option in request.options)


def without_mapping(request: Mount) -> Mount:
    """The same mount with the ids that are on disk."""
    return replace(request, options=tuple(each for each in request.options if not each.startswith((_UIDS, _GIDS))))


def open_mapped(request: Mount, mount: Callable[[Mount, str], None], namespace: int | None = None) -> int:
    """A descriptor of the mapped mount, which is attached nowhere yet. `mount` performs a plain one at a path;
    `namespace` has the mapping, if there is one already.

    `EINVAL` for options that describe no mapping; other errors are those of the system calls.
    """
    if namespace is not None:
        return _open_in(without_mapping(request), mount, namespace)
    try:
        uids, gids = (_mapping(request.options, name) for name in (_UIDS, _GIDS))
    except InvalidArgument as error:
        raise OSError(errno.EINVAL, error.message) from error
    with user_namespace(uids, gids) as made:
        return _open_in(without_mapping(request), mount, made)


def _open_in(request: Mount, mount: Callable[[Mount, str], None], namespace: int) -> int:
    if request.type == "overlay":
        return in_own_thread(lambda: _overlay(request, namespace, mount), "idmapped-mount")
    if "bind" in request.options or "rbind" in request.options:
        return map_tree(request.source, namespace)
    raise OSError(errno.EOPNOTSUPP, f"mounts of type {request.type!r} cannot be ID-mapped")


def map_tree(source: str, namespace: int, *, recursive: bool = False) -> int:
    """A detached, ID-mapped copy of the mount at `source`; `namespace` is the descriptor of a user namespace."""
    depth = syscalls.AT_RECURSIVE if recursive else 0
    tree = syscalls.open_tree(syscalls.AT_FDCWD, source, syscalls.OPEN_TREE_CLONE | depth)
    try:
        syscalls.mount_setattr(tree, attr_set=syscalls.MOUNT_ATTR_IDMAP, userns_fd=namespace, recursive=recursive)
    except OSError as error:
        os.close(tree)
        raise OSError(error.errno, f"cannot be ID-mapped: {error.strerror}", source) from error
    return tree


def _overlay(request: Mount, namespace: int, mount: Callable[[Mount, str], None]) -> int:
    """Mount over each lower layer its mapped copy, and the overlay over the first of them, in a mount namespace that
    ends with this thread: of all this only the descriptor of the overlay is left."""
    lower = next((each.removeprefix(_LOWER) for each in request.options if each.startswith(_LOWER)), "").split(":")
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    for path in lower:
        tree = map_tree(path, namespace)
        try:
            syscalls.move_mount(tree, path)
        finally:
            os.close(tree)
    mount(request, lower[0])
    return syscalls.open_tree(syscalls.AT_FDCWD, lower[0])


def _mapping(words: Sequence[str], name: str) -> IdMapping:
    text = next((word.removeprefix(name) for word in words if word.startswith(name)), "")
    return idmap.parse(text)
