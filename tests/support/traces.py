"""What a running daemon holds for pods and containers: to see that a call which failed has left nothing of it."""

from __future__ import annotations

import grpc

from moorage_api.wire import (
    containers_pb2,
    containers_pb2_grpc,
    leases_pb2,
    leases_pb2_grpc,
    snapshots_pb2,
    snapshots_pb2_grpc,
)
from support.daemon import Daemon
from support.leftovers import cgroups, mounts_below
from support.measure import processes_named

_NAMESPACE = (("containerd-namespace", "k8s.io"),)
_CRI = "io.containerd.grpc.v1.cri"
_FOLDERS = (
    f"root/{_CRI}/sandboxes",
    f"root/{_CRI}/cni",
    f"root/{_CRI}/containers",
    f"state/{_CRI}/netns",
    f"state/{_CRI}/exec",
    f"state/{_CRI}/containers",
    "state/io.containerd.runtime.v2.task/k8s.io",
    "state/io.containerd.sandbox.controller.v1.shim/k8s.io",
    "state/oci/k8s.io",
    "root/io.containerd.snapshotter.v1.overlayfs/snapshots",
)


def traces(daemon: Daemon) -> set[str]:
    """A line for each shim, mount, cgroup, folder, address and record."""
    spares = set(processes_named(daemon.tag, ["moorage-spare"]).values())
    shims = processes_named(daemon.tag, ["moorage-shim"])
    found = {f"shim {pid}" for pid in shims if pid not in spares}
    found |= {f"mount {point}" for point in mounts_below(daemon.folder)}
    found |= {f"cgroup {path}" for path in cgroups(daemon.cgroup_parent)}
    for name in (*_FOLDERS, f"cni/ipam/{daemon.network.bridge}"):
        folder = daemon.folder / name
        if folder.is_dir():
            # The allocator's own files stay.
            found |= {str(path) for path in folder.iterdir() if not path.name.startswith(("last_reserved", "lock"))}
    return found | _records(daemon.address)


def _records(address: str) -> set[str]:
    with grpc.insecure_channel(f"unix:{address}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        containers = containers_pb2_grpc.ContainersStub(channel).List(
            containers_pb2.ListContainersRequest(), metadata=_NAMESPACE
        )
        leases = leases_pb2_grpc.LeasesStub(channel).List(leases_pb2.ListRequest(), metadata=_NAMESPACE)
        snapshots = snapshots_pb2_grpc.SnapshotsStub(channel).List(
            snapshots_pb2.ListSnapshotsRequest(snapshotter="overlayfs"), metadata=_NAMESPACE
        )
        return {
            *(f"record {each.id}" for each in containers.containers),
            *(f"lease {each.id}" for each in leases.leases),
            *(f"snapshot {info.name}" for answer in snapshots for info in answer.info),
        }
