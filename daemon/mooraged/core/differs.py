"""Several differs as one: each is asked in its turn, until one knows the layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from moorage_api.content import ContentStore
from moorage_api.differ import Arriving, Differ, Extracted, Extracts, Progress
from moorage_api.errors import FailedPrecondition, Unimplemented
from moorage_api.mounts import Mount
from moorage_api.types import Descriptor, Labels

T = TypeVar("T")


class DifferChain:
    """`Differ` and `Extracts` of `moorage_api.differ`. A differ that raises `Unimplemented` passes the call on; any other
    error is final."""

    def __init__(self, differs: Sequence[Differ]) -> None:
        self._differs = differs

    def apply(
        self, content: ContentStore, layer: Descriptor, mounts: Sequence[Mount], *, sync: bool = False
    ) -> Descriptor:
        return self._first(lambda differ: differ.apply(content, layer, mounts, sync=sync))

    def extract(
        self,
        content: ContentStore,
        layer: Descriptor,
        mounts: Sequence[Mount],
        *,
        arriving: Arriving | None = None,
        apart: bool = False,
        progress: Progress | None = None,
    ) -> Extracted:
        """See `Extracts.extract`. A differ that only applies keeps its turn: when it comes to one, the layer has to be
        there, and what it stands on too."""

        def extract(differ: Differ) -> Extracted:
            if isinstance(differ, Extracts):
                return differ.extract(content, layer, mounts, arriving=arriving, apart=apart, progress=progress)
            if arriving is not None or apart:
                raise FailedPrecondition(
                    f"the differ whose turn it is takes {layer.digest} whole, on what it stands on"
                )
            return Extracted(differ.apply(content, layer, mounts))

        return self._first(extract)

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
        return self._first(
            lambda differ: differ.compare(content, lower, upper, media_type=media_type, ref=ref, labels=labels)
        )

    def _first(self, call: Callable[[Differ], T]) -> T:
        *others, last = self._differs
        for differ in others:
            try:
                return call(differ)
            except Unimplemented:
                continue
        return call(last)
