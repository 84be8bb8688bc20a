"""The snapshots of a namespace, by snapshotter (`containerd.services.snapshots.v1`)."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.convert import from_mount, nanoseconds
from moorage.session import Session
from moorage_api.mounts import Mount
from moorage_api.snapshots import Info, Kind, Usage
from moorage_api.wire import snapshots_pb2 as wire
from moorage_api.wire.snapshots_pb2_grpc import SnapshotsStub


class Snapshots:
    """One snapshotter's tree; the methods and their errors are those of `moorage_api.snapshots.Snapshotter`."""

    def __init__(self, session: Session, snapshotter: str) -> None:
        self._session = session
        self._stub = SnapshotsStub(session.channel)
        self.snapshotter = snapshotter

    async def stat(self, key: str) -> Info:
        """`NotFound`."""
        request = wire.StatSnapshotRequest(snapshotter=self.snapshotter, key=key)
        return _from_snapshot((await self._session.call(self._stub.Stat, request)).info)

    async def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """An active snapshot on `parent`. `AlreadyExists`, `NotFound` for the parent."""
        request = wire.PrepareSnapshotRequest(
            snapshotter=self.snapshotter, key=key, parent=parent, labels=dict(labels or {})
        )
        response = await self._session.call(self._stub.Prepare, request)
        return [from_mount(mount) for mount in response.mounts]

    async def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """A read-only snapshot of `parent`. Errors as `prepare`."""
        request = wire.ViewSnapshotRequest(
            snapshotter=self.snapshotter, key=key, parent=parent, labels=dict(labels or {})
        )
        response = await self._session.call(self._stub.View, request)
        return [from_mount(mount) for mount in response.mounts]

    async def mounts(self, key: str) -> list[Mount]:
        """How to mount an active snapshot or a view. `NotFound`, `FailedPrecondition` for a committed one."""
        request = wire.MountsRequest(snapshotter=self.snapshotter, key=key)
        response = await self._session.call(self._stub.Mounts, request)
        return [from_mount(mount) for mount in response.mounts]

    async def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        """Turn the active snapshot `key` into the committed `name`. `AlreadyExists`, `NotFound`."""
        request = wire.CommitSnapshotRequest(
            snapshotter=self.snapshotter, name=name, key=key, labels=dict(labels or {})
        )
        await self._session.call(self._stub.Commit, request)

    async def usage(self, key: str) -> Usage:
        """What the snapshot itself holds. `NotFound`."""
        response = await self._session.call(self._stub.Usage, wire.UsageRequest(snapshotter=self.snapshotter, key=key))
        return Usage(response.size, response.inodes)

    async def remove(self, key: str) -> None:
        """`NotFound`; `FailedPrecondition` while others stand on it."""
        await self._session.call(self._stub.Remove, wire.RemoveSnapshotRequest(snapshotter=self.snapshotter, key=key))

    async def list(self, *filters: str) -> list[Info]:
        """Those that match any of the filters; without filters all."""
        request = wire.ListSnapshotsRequest(snapshotter=self.snapshotter, filters=filters)
        return [
            _from_snapshot(info)
            async for response in self._session.stream(self._stub.List, request)
            for info in response.info
        ]


_KINDS = {
    wire.VIEW: Kind.VIEW,
    wire.ACTIVE: Kind.ACTIVE,
    wire.COMMITTED: Kind.COMMITTED,
}


def _from_snapshot(message: wire.Info) -> Info:
    return Info(
        name=message.name,
        kind=_KINDS[message.kind],
        parent=message.parent,
        labels=dict(message.labels),
        created_at=nanoseconds(message.created_at),
        updated_at=nanoseconds(message.updated_at),
    )
