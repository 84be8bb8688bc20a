"""The mounts of a container: the caller's, the pod's files, and those that every container has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.linux.mount import MountInfo, mountinfo
from moorage_api.oci.spec import Spec
from moorage_api.wire import cri_pb2
from moorage_cri.container import image_volumes
from moorage_cri.sandbox import userns
from moorage_cri.sandbox.userns import UserNamespace

_PATH_MAX = 4096
# What a caller may say of a bind mount beside what the message has fields for.
_OPTIONS = frozenset(
    {"dev", "nodev", "exec", "noexec", "suid", "nosuid", "atime", "noatime", "diratime", "nodiratime"}
    | {"relatime", "norelatime", "strictatime", "nostrictatime"}
)


@dataclass(frozen=True, slots=True)
class Bind:
    """A bind mount that the plugin itself adds; the caller's own mount at the same place comes before it.

    A `mapped` one has files with the ids of the container, which its user namespace, if it has one, must map.
    """

    destination: str
    source: str
    options: tuple[str, ...]
    mapped: bool = False


def check(mounts: Iterable[cri_pb2.Mount]) -> None:
    """`InvalidArgument` for mounts that cannot be made, whatever is on the host."""
    for mount in mounts:
        for path in (mount.container_path, mount.host_path):
            if "\0" in path or len(path) > _PATH_MAX:
                raise InvalidArgument(f"mount path {path[:80]!r} is not a path")
        if not mount.container_path:
            raise InvalidArgument("a mount has no container_path")
        unknown = set(mount.mount_options) - _OPTIONS
        if unknown:
            raise InvalidArgument(
                f"mount {mount.container_path}: unknown mount options {', '.join(sorted(unknown))[:120]}"
            )
        if mount.HasField("image"):
            image_volumes.check(mount)
            continue
        if not mount.host_path.startswith("/"):
            raise InvalidArgument(f"mount {mount.container_path}: host_path {mount.host_path!r} is not absolute")
        for mapping in (mount.uidMappings, mount.gidMappings):
            if mapping:
                userns.mapping_of(mapping)
        if bool(mount.uidMappings) != bool(mount.gidMappings):
            raise InvalidArgument(
                f"mount {mount.container_path}: it needs mappings of user and of group ids, or neither"
            )
        _check_recursive(mount)


def _check_recursive(mount: cri_pb2.Mount) -> None:
    if not mount.recursive_read_only:
        return
    if not mount.readonly:
        raise InvalidArgument(f"mount {mount.container_path}: recursive_read_only needs readonly")
    if mount.propagation != cri_pb2.PROPAGATION_PRIVATE:
        raise InvalidArgument(f"mount {mount.container_path}: recursive_read_only needs private propagation")


def apply(spec: Spec, mounts: Sequence[cri_pb2.Mount], own: Sequence[Bind], user: UserNamespace | None = None) -> None:
    """Add the caller's mounts and the plugin's `own` to the defaults, of which they replace those at the same place.

    A host path that is missing is made, as a folder. `FailedPrecondition` where a mount is to propagate and the
    host's is not shared. This does I/O.
    """
    destinations = {os.path.normpath(mount.container_path) for mount in mounts}
    added = [_bind(mount, spec) for mount in mounts]
    added += [
        {"destination": bind.destination, "type": "bind", "source": bind.source, "options": list(bind.options)}
        | (_mapped(user) if bind.mapped and user is not None else {})
        for bind in own
        if bind.destination not in destinations
    ]
    # Shallow places first, so that no mount hides another.
    added.sort(key=lambda mount: os.path.normpath(mount["destination"]).count("/"))
    taken = destinations | {bind.destination for bind in own}
    spec["mounts"] = [mount for mount in spec["mounts"] if not _hidden(mount["destination"], taken)] + added


def _mapped(user: UserNamespace) -> dict[str, Any]:
    return {"uidMappings": userns.oci_mapping(user.uids), "gidMappings": userns.oci_mapping(user.gids)}


def _hidden(destination: str, taken: set[str]) -> bool:
    """A mount on /dev brings its own pts, shm and mqueue."""
    return destination in taken or ("/dev" in taken and destination.startswith("/dev/"))


def _bind(mount: cri_pb2.Mount, spec: Spec) -> dict[str, Any]:
    # exist_ok would refuse a file, and a bind mount of a file is usual.
    if not os.path.lexists(mount.host_path):
        os.makedirs(mount.host_path, mode=0o755, exist_ok=True)
    source = os.path.realpath(mount.host_path)
    options = ["rbind", _propagation(mount, source, spec)]
    if mount.readonly:
        options.append("rro" if mount.recursive_read_only else "ro")
    else:
        options.append("rw")
    made: dict[str, Any] = {
        "destination": mount.container_path,
        "type": "bind",
        "source": source,
        "options": options + list(mount.mount_options),
    }
    if mount.uidMappings:
        uids, gids = userns.mapping_of(mount.uidMappings), userns.mapping_of(mount.gidMappings)
        made |= _mapped(UserNamespace(uids, gids))
    return made


def _propagation(mount: cri_pb2.Mount, source: str, spec: Spec) -> str:
    if mount.propagation == cri_pb2.PROPAGATION_PRIVATE:
        return "rprivate"
    mode = "rshared" if mount.propagation == cri_pb2.PROPAGATION_BIDIRECTIONAL else "rslave"
    propagate(spec, mount.container_path, source, mode)
    return mode


def propagate(spec: Spec, destination: str, source: str, mode: str) -> None:
    """Have the root file system let mounts through, so that a mount of `source` may be `rshared` or `rslave`.

    `FailedPrecondition` where the mount that `source` lies on does not propagate so.
    """
    optional = _mount_of(source).optional
    shared = any(word.startswith("shared:") for word in optional)
    if mode == "rshared":
        if not shared:
            raise FailedPrecondition(f"mount {destination}: {source} does not lie on a shared mount")
        spec["linux"]["rootfsPropagation"] = mode
        return
    if not shared and not any(word.startswith("master:") for word in optional):
        raise FailedPrecondition(f"mount {destination}: {source} lies on neither a shared nor a slave mount")
    spec["linux"].setdefault("rootfsPropagation", mode)


def _mount_of(path: str) -> MountInfo:
    """The mount that `path` lies on; of several at one place, the one on top."""
    covering = [
        entry for entry in mountinfo() if path == entry.target or path.startswith(entry.target.rstrip("/") + "/")
    ]
    if not covering:
        raise FailedPrecondition(f"{path} lies on no mount that can be seen")
    longest = max(len(entry.target) for entry in covering)
    return [entry for entry in covering if len(entry.target) == longest][-1]
