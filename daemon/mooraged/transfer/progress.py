"""Progress of a transfer for whoever watches: every change of state, and bytes at most ten times a second for each blob."""

from __future__ import annotations

import time
from collections.abc import Callable

from moorage_api.oci import image
from moorage_api.transfer import Progress, ProgressSink
from moorage_api.types import Descriptor

INTERVAL = 0.1
"""Seconds between two reports of bytes of the same blob."""
_SHORT = 12


class Reporter:
    """Reports for one transfer of `reference`; without a sink it does nothing."""

    def __init__(self, reference: str, sink: ProgressSink | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.reference = reference
        self._sink = sink
        self._clock = clock
        self._passed = 0
        self._told_at = float("-inf")

    def image(self, event: str, root: Descriptor | None = None, name: str = "") -> None:
        """What happens to the image as a whole."""
        if root is None:
            self._tell(Progress(event, name or self.reference))
        else:
            self._tell(Progress(event, name or self.reference, root.digest, root.media_type, (), root.size, root.size))

    def bytes(self, event: str, count: int) -> None:
        """`count` more bytes of the whole have passed; told ten times a second."""
        self._passed += count
        now = self._clock()
        if now - self._told_at >= INTERVAL:
            self._told_at = now
            self._tell(Progress(event, self.reference, progress=self._passed))

    def blob(self, descriptor: Descriptor, parents: tuple[str, ...] = ()) -> BlobReporter:
        """Reports for one blob."""
        return BlobReporter(self._tell, self._clock, descriptor, parents or (self.reference,))

    def _tell(self, progress: Progress) -> None:
        if self._sink is not None:
            self._sink(progress)


class BlobReporter:
    """Reports for one blob of a transfer."""

    def __init__(
        self,
        tell: Callable[[Progress], None],
        clock: Callable[[], float],
        descriptor: Descriptor,
        parents: tuple[str, ...],
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._descriptor = descriptor
        self._parents = parents
        self._bytes = 0
        self._told_at = float("-inf")

    @property
    def name(self) -> str:
        """A kind and a short digest: `layer 4bcff63911fc`."""
        return f"{_kind(self._descriptor.media_type)} {self._descriptor.digest.partition(':')[2][:_SHORT]}"

    def state(self, event: str) -> None:
        """The blob has come to a new state; a blob that is there counts whole."""
        if event in ("complete", "already exists", "extracted"):
            self._bytes = self._descriptor.size
        self._say(event)

    def advance(self, count: int, event: str = "downloading") -> None:
        """`count` bytes of it are there."""
        self._bytes = count
        now = self._clock()
        if now - self._told_at >= INTERVAL:
            self._told_at = now
            self._say(event)

    def _say(self, event: str) -> None:
        known = self._descriptor
        self._tell(Progress(event, self.name, known.digest, known.media_type, self._parents, self._bytes, known.size))


def _kind(media_type: str) -> str:
    if image.is_index(media_type):
        return "index"
    if image.is_manifest(media_type):
        return "manifest"
    if image.is_config(media_type):
        return "config"
    return "layer" if image.is_layer(media_type) else "blob"
