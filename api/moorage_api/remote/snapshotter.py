"""A snapshotter in another process (`containerd.services.snapshots.v1`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moorage_api.convert import field_mask, mounts_from_wire, snapshot_from_wire, snapshot_to_wire
from moorage_api.errors import Unimplemented
from moorage_api.mounts import Mount
from moorage_api.remote.channel import Channel
from moorage_api.snapshots import Info, Usage
from moorage_api.types import Labels
from moorage_api.wire import snapshots_pb2 as pb
from moorage_api.wire.snapshots_pb2_grpc import SnapshotsStub


class RemoteSnapshotter:
    """`moorage_api.snapshots.Snapshotter` over `channel`, of the snapshotter that is called `name` there.

    Beside the contract's errors, every method raises `Unavailable` and `DeadlineExceeded` as the channel says.
    """

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._name = name
        self._stub = SnapshotsStub(channel.grpc)

    def stat(self, key: str) -> Info:
        request = pb.StatSnapshotRequest(snapshotter=self._name, key=key)
        return snapshot_from_wire(self._channel.call(self._stub.Stat, request).info)

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        given = snapshot_to_wire(info)
        request = pb.UpdateSnapshotRequest(snapshotter=self._name, info=given, update_mask=field_mask(fieldpaths))
        return snapshot_from_wire(self._channel.call(self._stub.Update, request).info)

    def usage(self, key: str) -> Usage:
        response = self._channel.call(self._stub.Usage, pb.UsageRequest(snapshotter=self._name, key=key))
        return Usage(response.size, response.inodes)

    def mounts(self, key: str) -> list[Mount]:
        request = pb.MountsRequest(snapshotter=self._name, key=key)
        return mounts_from_wire(self._channel.call(self._stub.Mounts, request).mounts)

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        request = pb.PrepareSnapshotRequest(snapshotter=self._name, key=key, parent=parent, labels=labels or {})
        return mounts_from_wire(self._channel.call(self._stub.Prepare, request).mounts)

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        request = pb.ViewSnapshotRequest(snapshotter=self._name, key=key, parent=parent, labels=labels or {})
        return mounts_from_wire(self._channel.call(self._stub.View, request).mounts)

    def commit(self, name: str, key: str, labels: Labels | None = None, *, parent: str = "") -> None:
        request = pb.CommitSnapshotRequest(
            snapshotter=self._name, name=name, key=key, labels=labels or {}, parent=parent
        )
        self._channel.call(self._stub.Commit, request)

    def remove(self, key: str) -> None:
        self._channel.call(self._stub.Remove, pb.RemoveSnapshotRequest(snapshotter=self._name, key=key))

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        request = pb.ListSnapshotsRequest(snapshotter=self._name, filters=filters)
        pages = list(self._channel.stream(self._stub.List, request))
        found = [snapshot_from_wire(info) for page in pages for info in page.info]
        # Others list in an order of their own.
        return iter(sorted(found, key=lambda info: info.name))

    def cleanup(self) -> None:
        """Ask for it; a snapshotter that cleans up by itself may not know the call."""
        try:
            self._channel.call(self._stub.Cleanup, pb.CleanupRequest(snapshotter=self._name))
        except Unimplemented:
            return

    def close(self) -> None:
        """End the connection; the snapshotter goes on."""
        self._channel.close()
