"""Fixtures of the differ's tests: a content store, snapshotters, and the differ itself with real worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from moorage_api.content import ContentStore
from moorage_api.errors import AlreadyExists
from moorage_api.snapshots import Snapshotter
from moorage_api.types import Descriptor
from moorage_content.store import LocalContentStore
from moorage_snapshotter.native import NativeSnapshotter
from moorage_snapshotter.overlay import OverlaySnapshotter
from mooraged.differ.limits import Limits
from mooraged.differ.pool import WorkerPool
from mooraged.differ.walking import WalkingDiffer

Put = Callable[..., Descriptor]


@pytest.fixture
def content(tmp_path: Path) -> ContentStore:
    return LocalContentStore(tmp_path / "content")


@pytest.fixture
def put(content: ContentStore) -> Put:
    """Put bytes into the store; returns the descriptor of a layer."""

    def put(data: bytes, media_type: str = "application/vnd.oci.image.layer.v1.tar+gzip") -> Descriptor:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        with suppress(AlreadyExists), content.writer(digest) as writer:
            writer.write(data)
            writer.commit(len(data), digest)
        return Descriptor(media_type, digest, len(data))

    return put


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(2)
    yield pool
    pool.stop()


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def differ(pool: WorkerPool, scratch: Path) -> WalkingDiffer:
    return WalkingDiffer(pool, Limits(), scratch)


@pytest.fixture(params=["overlayfs", "native"])
def snapshotter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Snapshotter]:
    root = tmp_path / "snapshots"
    root.mkdir()
    made: Snapshotter = OverlaySnapshotter(root) if request.param == "overlayfs" else NativeSnapshotter(root)
    yield made
    made.close()
