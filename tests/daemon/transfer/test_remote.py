"""Pulls with a snapshotter that has layers of its own, as a lazy one has: their blobs are not fetched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moorage_api.differ import Differ
from moorage_api.errors import AlreadyExists
from moorage_api.mounts import Mount
from moorage_api.oci import image as documents
from moorage_api.types import Labels
from moorage_snapshotter.native import NativeSnapshotter
from support.faultproxy import FaultProxy
from support.images import digest_of, push
from support.registry import Registry
from support.transfer import World, layer_digests, spec

FOR_REMOTE = "containerd.io/snapshot/cri."


class LazySnapshotter(NativeSnapshotter):
    """Commits by itself, with a file in it, a layer whose digest it is asked for and has."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.has: set[str] = set()
        self.told: list[dict[str, str]] = []

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        labels = labels or {}
        self.told.append({name: value for name, value in labels.items() if name.startswith(FOR_REMOTE)})
        mounts = super().prepare(key, parent, labels)
        if labels.get(f"{FOR_REMOTE}layer-digest") not in self.has:
            return mounts
        Path(mounts[0].source, "lazy").write_text("from elsewhere")
        self.commit(f"lazy {labels['containerd.io/snapshot.ref']}", key, labels)
        raise AlreadyExists("it has been here before")


@pytest.fixture
async def lazy(tmp_path: Path, differ: Differ) -> AsyncIterator[tuple[World, LazySnapshotter]]:
    snapshotter = LazySnapshotter(tmp_path / "lazy")
    world = World(tmp_path, differ, snapshotter=snapshotter)
    yield world, snapshotter
    await world.close()


@pytest.mark.parametrize("had", [0, 1, 2])
async def test_only_what_the_snapshotter_does_not_have_is_fetched(
    lazy: tuple[World, LazySnapshotter], registry: Registry, proxy: FaultProxy, had: int
) -> None:
    world, snapshotter = lazy
    image = spec("lower", "upper")
    layers, chain = layer_digests(image), documents.chain_ids([digest_of(layer) for layer in image.layers])
    manifest = push(registry.address, "pull/lazy", "v1", image)
    snapshotter.has = set(layers[:had])

    reference = f"{proxy.address}/pull/lazy:v1"
    await world.transfer.bind("default").pull(reference)
    assert [len(proxy.requests(f"GET .*/blobs/{layer}")) for layer in layers] == [int(n >= had) for n in range(2)]
    common = {f"{FOR_REMOTE}image-ref": reference, f"{FOR_REMOTE}manifest-digest": manifest}
    assert snapshotter.told == [
        {**common, f"{FOR_REMOTE}layer-digest": layer, f"{FOR_REMOTE}image-layers": ",".join(layers[number:])}
        for number, layer in enumerate(layers)
    ]
    view = world.metadata.bind("default")
    assert view.snapshotter().stat(chain[1]).parent == chain[0]
    (mount,) = view.snapshotter().view("look", chain[1])
    names = {path.name for path in Path(mount.source).iterdir() if not path.name.endswith(".noise")}
    assert names == ({"lazy"} if had else set()) | set(["lower", "upper"][had:])
    assert world.leftovers() == []
