"""How an object that keeps a contract answers the RPCs of containerd's service for it.

One method an RPC, synchronous, named as it; a streamed answer is an iterator. Errors are the contract's own. The daemon
answers with these too, on a namespace's view of its backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.empty_pb2 import Empty

from moorage_api.content import ContentStore
from moorage_api.convert import (
    content_info_from_wire,
    content_info_to_wire,
    descriptor_from_wire,
    descriptor_to_wire,
    fieldpaths,
    ingest_to_wire,
    mounts_from_wire,
    mounts_to_wire,
    pages,
    snapshot_from_wire,
    snapshot_to_wire,
    snapshots_to_wire,
)
from moorage_api.differ import Differ
from moorage_api.errors import OutOfRange
from moorage_api.remote.write_session import WriteSession
from moorage_api.snapshots import Snapshotter
from moorage_api.types import check_digest
from moorage_api.wire import content_pb2, diff_pb2, snapshots_pb2

CHUNK = 1 << 20
"""Bytes in one message of a read. Clients accept 4 MiB at least."""


class SnapshotAnswers:
    """`containerd.services.snapshots.v1` on one snapshotter; whatever name a request has for it."""

    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter

    def Prepare(self, request: snapshots_pb2.PrepareSnapshotRequest) -> snapshots_pb2.PrepareSnapshotResponse:
        mounts = self._snapshotter.prepare(request.key, request.parent, dict(request.labels))
        return snapshots_pb2.PrepareSnapshotResponse(mounts=mounts_to_wire(mounts))

    def View(self, request: snapshots_pb2.ViewSnapshotRequest) -> snapshots_pb2.ViewSnapshotResponse:
        mounts = self._snapshotter.view(request.key, request.parent, dict(request.labels))
        return snapshots_pb2.ViewSnapshotResponse(mounts=mounts_to_wire(mounts))

    def Mounts(self, request: snapshots_pb2.MountsRequest) -> snapshots_pb2.MountsResponse:
        return snapshots_pb2.MountsResponse(mounts=mounts_to_wire(self._snapshotter.mounts(request.key)))

    def Commit(self, request: snapshots_pb2.CommitSnapshotRequest) -> Empty:
        # Named only where it is wanted, so that a snapshotter written before there was such a thing works as ever.
        onto = {"parent": request.parent} if request.parent else {}
        self._snapshotter.commit(request.name, request.key, dict(request.labels), **onto)
        return Empty()

    def Remove(self, request: snapshots_pb2.RemoveSnapshotRequest) -> Empty:
        self._snapshotter.remove(request.key)
        return Empty()

    def Stat(self, request: snapshots_pb2.StatSnapshotRequest) -> snapshots_pb2.StatSnapshotResponse:
        return snapshots_pb2.StatSnapshotResponse(info=snapshot_to_wire(self._snapshotter.stat(request.key)))

    def Update(self, request: snapshots_pb2.UpdateSnapshotRequest) -> snapshots_pb2.UpdateSnapshotResponse:
        info = self._snapshotter.update(snapshot_from_wire(request.info), fieldpaths(request.update_mask))
        return snapshots_pb2.UpdateSnapshotResponse(info=snapshot_to_wire(info))

    def List(self, request: snapshots_pb2.ListSnapshotsRequest) -> Iterator[snapshots_pb2.ListSnapshotsResponse]:
        found = list(self._snapshotter.walk(list(request.filters)))
        return map(snapshots_to_wire, pages(found))

    def Usage(self, request: snapshots_pb2.UsageRequest) -> snapshots_pb2.UsageResponse:
        usage = self._snapshotter.usage(request.key)
        return snapshots_pb2.UsageResponse(size=usage.size, inodes=usage.inodes)

    def Cleanup(self, request: snapshots_pb2.CleanupRequest) -> Empty:
        self._snapshotter.cleanup()
        return Empty()


class ContentAnswers:
    """`containerd.services.content.v1` on one store."""

    def __init__(self, store: ContentStore) -> None:
        self._store = store

    def Info(self, request: content_pb2.InfoRequest) -> content_pb2.InfoResponse:
        check_digest(request.digest)
        return content_pb2.InfoResponse(info=content_info_to_wire(self._store.info(request.digest)))

    def Update(self, request: content_pb2.UpdateRequest) -> content_pb2.UpdateResponse:
        check_digest(request.info.digest)
        info = self._store.update(content_info_from_wire(request.info), fieldpaths(request.update_mask))
        return content_pb2.UpdateResponse(info=content_info_to_wire(info))

    def List(self, request: content_pb2.ListContentRequest) -> Iterator[content_pb2.ListContentResponse]:
        for page in pages(list(self._store.walk(list(request.filters)))):
            yield content_pb2.ListContentResponse(info=map(content_info_to_wire, page))

    def Delete(self, request: content_pb2.DeleteContentRequest) -> Empty:
        check_digest(request.digest)
        self._store.delete(request.digest)
        return Empty()

    def Read(self, request: content_pb2.ReadContentRequest) -> Iterator[content_pb2.ReadContentResponse]:
        check_digest(request.digest)
        with self._store.open(request.digest) as blob:
            offset, end = extent(request, blob.size)
            while offset < end and (data := blob.pread(min(CHUNK, end - offset), offset)):
                yield content_pb2.ReadContentResponse(offset=offset, data=data)
                offset += len(data)

    def Status(self, request: content_pb2.StatusRequest) -> content_pb2.StatusResponse:
        return content_pb2.StatusResponse(status=ingest_to_wire(self._store.status(request.ref)))

    def ListStatuses(self, request: content_pb2.ListStatusesRequest) -> content_pb2.ListStatusesResponse:
        statuses = self._store.statuses(list(request.filters))
        return content_pb2.ListStatusesResponse(statuses=map(ingest_to_wire, statuses))

    def Abort(self, request: content_pb2.AbortRequest) -> Empty:
        self._store.abort(request.ref)
        return Empty()

    def Write(self, requests: Iterator[content_pb2.WriteContentRequest]) -> Iterator[content_pb2.WriteContentResponse]:
        first = next(requests, None)
        if first is None:
            return
        session = WriteSession(self._store, first)
        try:
            message: content_pb2.WriteContentRequest | None = first
            while message is not None:
                yield session.step(message)
                if message.action == content_pb2.COMMIT:
                    return
                message = next(requests, None)
        finally:
            session.close()


def extent(request: content_pb2.ReadContentRequest, size: int) -> tuple[int, int]:
    """Where a read of a blob of `size` bytes begins and ends: a size of zero, or one beyond the end, reads to the end."""
    offset = max(request.offset, 0)
    if offset > size:
        raise OutOfRange(f"read at {offset} of {request.digest}, which has {size} bytes")
    return offset, size if request.size <= 0 else min(offset + request.size, size)


class DiffAnswers:
    """`containerd.services.diff.v1` by one differ; `content` gives the store of the namespace that a call names."""

    def __init__(self, differ: Differ, content: Callable[[], ContentStore]) -> None:
        self._differ = differ
        self._content = content

    def Apply(self, request: diff_pb2.ApplyRequest) -> diff_pb2.ApplyResponse:
        layer, mounts = descriptor_from_wire(request.diff), mounts_from_wire(request.mounts)
        applied = self._differ.apply(self._content(), layer, mounts, sync=request.sync_fs)
        return diff_pb2.ApplyResponse(applied=descriptor_to_wire(applied))

    def Diff(self, request: diff_pb2.DiffRequest) -> diff_pb2.DiffResponse:
        options: dict[str, Any] = {"media_type": request.media_type, "ref": request.ref, "labels": dict(request.labels)}
        left, right = mounts_from_wire(request.left), mounts_from_wire(request.right)
        layer = self._differ.compare(self._content(), left, right, **options)
        return diff_pb2.DiffResponse(diff=descriptor_to_wire(layer))
