"""Pulls with several differs: each layer goes to the first that knows it, as early as that one takes it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from moorage_api.content import ContentStore
from moorage_api.differ import Differ, Extracted
from moorage_api.errors import Unimplemented
from moorage_api.mounts import Mount
from moorage_api.transfer import Progress, PullOptions
from moorage_api.types import Descriptor
from mooraged.core.differs import DifferChain
from mooraged.differ.walking import WalkingDiffer
from support.faultproxy import FaultProxy
from support.images import push
from support.registry import Registry
from support.transfer import World, spec

IMAGE = spec("one", size=4_000_000)


class Whole:
    """A differ that only applies, and knows no layer."""

    def apply(self, content: ContentStore, layer: Descriptor, mounts: Sequence[Mount], **_: Any) -> Descriptor:
        content.info(layer.digest)
        raise Unimplemented("it knows no layer")

    def compare(self, *_: Any, **__: Any) -> Descriptor:
        raise Unimplemented("it makes none")


class Early(Whole):
    """One that knows no layer either, and would extract it early."""

    def extract(self, *_: Any, **__: Any) -> Extracted:
        raise Unimplemented("it knows no layer")


class Watched(Whole):
    """Extracts by `differ`, and keeps whether the layer was still arriving."""

    def __init__(self, differ: WalkingDiffer) -> None:
        self._differ = differ
        self.early: list[bool] = []

    def extract(self, *arguments: Any, **options: Any) -> Extracted:
        self.early.append(options["arriving"] is not None)
        return self._differ.extract(*arguments, **options)


@asynccontextmanager
async def world_of(folder: Path, *differs: Differ) -> AsyncIterator[World]:
    world = World(folder, DifferChain(differs))
    try:
        yield world
        assert world.leftovers() == []
    finally:
        await world.close()


@pytest.mark.parametrize(("first", "early"), [(Early, True), (Whole, False)])
async def test_a_layer_passes_differs_that_do_not_know_it(
    tmp_path: Path, differ: WalkingDiffer, registry: Registry, proxy: FaultProxy, first: type[Differ], early: bool
) -> None:
    push(registry.address, "differs/image", "v1", IMAGE)
    proxy.rate = 8_000_000
    told: list[Progress] = []
    watched = Watched(differ)
    async with world_of(tmp_path, first(), watched) as world:
        await world.transfer.bind("default").pull(f"{proxy.address}/differs/image:v1", PullOptions(), told.append)
        assert len(list(world.metadata.bind("default").snapshotter().walk())) == 1
    assert watched.early == [early]
    assert "extracting" in {progress.event for progress in told}
