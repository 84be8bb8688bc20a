"""User namespaces of pods: what CRI says of them, as mappings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from moorage_api import idmap
from moorage_api.errors import InvalidArgument
from moorage_api.idmap import IdMapping, IdRange
from moorage_api.wire import cri_pb2


@dataclass(frozen=True)
class UserNamespace:
    """The mappings of a pod's own user namespace."""

    uids: IdMapping
    gids: IdMapping

    @cached_property
    def root(self) -> tuple[int, int]:
        """The user and group on the host that root in the pod is."""
        return self.uids.to_host(0), self.gids.to_host(0)

    @property
    def labels(self) -> dict[str, str]:
        """Those of a snapshot whose files are to be seen through the mappings."""
        return {idmap.UID_LABEL: str(self.uids), idmap.GID_LABEL: str(self.gids)}


def of_pod(options: cri_pb2.NamespaceOption) -> UserNamespace | None:
    """The user namespace that a pod asks for, None for the host's. `InvalidArgument` for what cannot be."""
    wanted = options.userns_options
    if not options.HasField("userns_options") or wanted.mode == cri_pb2.NODE:
        if wanted.uids or wanted.gids:
            raise InvalidArgument("the host's user namespace (NODE) has no mappings of a pod's own")
        return None
    if wanted.mode != cri_pb2.POD:
        mode = cri_pb2.NamespaceMode.Name(wanted.mode)
        raise InvalidArgument(f"a user namespace is the pod's or the host's (POD, NODE): {mode} is not possible")
    for name in ("pid", "ipc"):
        if getattr(options, name) == cri_pb2.NODE:
            raise InvalidArgument(f"a pod with a user namespace cannot share the host's {name.upper()} namespace")
    found = UserNamespace(_mapping(wanted.uids, "user"), _mapping(wanted.gids, "group"))
    _ = found.root
    return found


def check_same(pod: cri_pb2.NamespaceOption, container: cri_pb2.NamespaceOption) -> None:
    """`InvalidArgument` for a container that asks for another user namespace than its pod has; it may leave it out."""
    if container.HasField("userns_options") and of_pod(container) != of_pod(pod):
        raise InvalidArgument("the container's user namespace is not the pod's")


def mapping_of(ranges: Sequence[cri_pb2.IDMapping]) -> IdMapping:
    """A mapping as CRI writes it. `InvalidArgument`."""
    return IdMapping(tuple(IdRange(each.container_id, each.host_id, each.length) for each in ranges))


def oci_mapping(mapping: IdMapping) -> list[dict[str, Any]]:
    """A mapping as the OCI runtime specification has it."""
    return [{"containerID": each.container, "hostID": each.host, "size": each.size} for each in mapping.ranges]


def _mapping(ranges: Sequence[cri_pb2.IDMapping], what: str) -> IdMapping:
    if len(ranges) != 1:
        raise InvalidArgument(f"a pod's user namespace takes one range of {what} ids, not {len(ranges)}")
    return mapping_of(ranges)
