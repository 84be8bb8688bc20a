"""ImageFsInfo."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from moorage_api.errors import NotFound, Unavailable
from moorage_api.rpc import Call
from moorage_api.snapshots import Kind
from moorage_api.wire import cri_pb2
from moorage_cri.context import Cri

# As often as containerd measures by default.
_FRESH_SECONDS = 10.0
# How long a call waits for a measurement.
_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class _Measurement:
    at: int
    taken: float
    size: int
    inodes: int


class ImageFsInfo:
    """Tells how much room images and containers take, as their snapshots count it.

    Committed snapshots never change, so each is asked once; writable ones are measured when an answer is older than
    ten seconds, and one measurement serves all who ask meanwhile. Where a hung disk holds it up, the last one is told.
    """

    def __init__(self, cri: Cri) -> None:
        self._cri = cri
        self._committed: dict[str, tuple[int, int]] = {}
        self._last: _Measurement | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._began = 0.0

    async def ImageFsInfo(self, request: cri_pb2.ImageFsInfoRequest, call: Call) -> cri_pb2.ImageFsInfoResponse:
        """`Unavailable` where nothing could be measured yet."""
        now = time.monotonic()
        if self._last is None or now - self._last.taken > _FRESH_SECONDS:
            if self._measuring is None or self._measuring.done():
                self._measuring = self._cri.background.spawn("room of images", self._renew())
                self._began = now
            if now - self._began < _PATIENCE_SECONDS:
                await asyncio.wait([self._measuring], timeout=_PATIENCE_SECONDS)
        last = self._last
        if last is None:
            raise Unavailable(f"how much room images take could not be measured within {_PATIENCE_SECONDS:g} s")
        usage = cri_pb2.FilesystemUsage(
            timestamp=last.at,
            fs_id=cri_pb2.FilesystemIdentifier(mountpoint=mountpoint(self._cri)),
            used_bytes=cri_pb2.UInt64Value(value=last.size),
            inodes_used=cri_pb2.UInt64Value(value=last.inodes),
        )
        return cri_pb2.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])

    async def _renew(self) -> None:
        # Not to be waited for to its end when the daemon stops.
        self._last = await self._cri.core.run(self._measure)

    def _measure(self) -> _Measurement:
        snapshotter = self._cri.k8s.snapshotter(self._cri.snapshotter)
        sizes: list[tuple[int, int]] = []
        committed: dict[str, tuple[int, int]] = {}
        for info in snapshotter.walk():
            try:
                known = self._committed.get(info.name) if info.kind is Kind.COMMITTED else None
                if known is None:
                    usage = snapshotter.usage(info.name)
                    known = (usage.size, usage.inodes)
            except NotFound:
                continue
            if info.kind is Kind.COMMITTED:
                committed[info.name] = known
            sizes.append(known)
        self._committed = committed
        return _Measurement(time.time_ns(), time.monotonic(), sum(s for s, _ in sizes), sum(i for _, i in sizes))


def mountpoint(cri: Cri) -> str:
    """The folder whose file system holds images and containers."""
    return str(cri.core.daemon.root / f"io.containerd.snapshotter.v1.{cri.snapshotter}")
