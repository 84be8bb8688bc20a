"""The built-in differ keeps the rules of differs: here, and in another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moorage_api.differ import Differ
from moorage_api.remote.channel import Channel
from moorage_api.remote.differ import RemoteDiffer
from moorage_api.remote.server import Server
from moorage_api.testing.differ import DifferSuite
from mooraged.differ.limits import Limits
from mooraged.differ.pool import WorkerPool
from mooraged.differ.walking import WalkingDiffer


@pytest.fixture(scope="module")
def pool() -> Any:
    pool = WorkerPool(2)
    yield pool
    pool.stop()


class TestWalking(DifferSuite):
    @pytest.fixture(autouse=True)
    def workers(self, pool: WorkerPool) -> None:
        self.pool = pool

    def open_differ(self, folder: Path) -> Differ:
        return WalkingDiffer(self.pool, Limits(), folder)


class TestServed(TestWalking):
    def open_differ(self, folder: Path) -> Differ:
        address = str(folder / "s.sock")
        scratch = folder / "scratch"
        scratch.mkdir()
        self.server = Server(super().open_differ(scratch), content=lambda namespace, lease: self.blobs)
        self.server.start(address)
        return RemoteDiffer(Channel("tested", address, timeout=30))

    def close_differ(self, differ: Differ) -> None:
        assert isinstance(differ, RemoteDiffer)
        differ.close()
        self.server.stop(0)
