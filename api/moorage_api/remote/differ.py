"""A differ in another process (`containerd.services.diff.v1`).

It reads and writes content on a socket of its own, which is this daemon's: what is sent is the namespace to use there.
"""

from __future__ import annotations

from collections.abc import Sequence

from moorage_api.content import ContentStore, NamespacedContent
from moorage_api.convert import descriptor_from_wire, descriptor_to_wire, mounts_to_wire
from moorage_api.errors import Unimplemented
from moorage_api.mounts import Mount
from moorage_api.remote.channel import Channel
from moorage_api.types import Descriptor, Labels
from moorage_api.wire import diff_pb2 as pb
from moorage_api.wire.diff_pb2_grpc import DiffStub


class RemoteDiffer:
    """`moorage_api.differ.Differ` over `channel`.

    `content` must be a namespace's (`moorage_api.content.NamespacedContent`), since the other process looks for the
    same blobs through the daemon's socket; `Unimplemented` for any other.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = DiffStub(channel.grpc)

    def apply(
        self, content: ContentStore, layer: Descriptor, mounts: Sequence[Mount], *, sync: bool = False
    ) -> Descriptor:
        request = pb.ApplyRequest(diff=descriptor_to_wire(layer), mounts=mounts_to_wire(mounts), sync_fs=sync)
        return descriptor_from_wire(self._bound(content).call(self._stub.Apply, request).applied)

    def compare(
        self,
        content: ContentStore,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Labels | None = None,
    ) -> Descriptor:
        request = pb.DiffRequest(
            left=mounts_to_wire(lower),
            right=mounts_to_wire(upper),
            media_type=media_type,
            ref=ref,
            labels=labels or {},
        )
        return descriptor_from_wire(self._bound(content).call(self._stub.Diff, request).diff)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def _bound(self, content: ContentStore) -> Channel:
        if not isinstance(content, NamespacedContent):
            raise Unimplemented("a differ in another process needs content that it can find by its namespace")
        return self._channel.bound(content.namespace, content.lease)
