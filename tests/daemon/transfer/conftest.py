"""Fixtures of the transfer's tests: real stores, and a proxy that breaks things between them and a real registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from moorage_api.differ import Differ
from mooraged.differ.limits import Limits
from mooraged.differ.pool import WorkerPool
from mooraged.differ.walking import WalkingDiffer
from support.faultproxy import FaultProxy
from support.registry import Registry
from support.transfer import Certificates, World


@pytest.fixture(scope="session")
def differ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Differ]:
    """The real one, whose worker processes all tests share."""
    pool = WorkerPool(2)
    yield WalkingDiffer(pool, Limits(), tmp_path_factory.mktemp("differ"))
    pool.stop()


@pytest.fixture
async def world(tmp_path: Path, differ: Differ) -> AsyncIterator[World]:
    running = World(tmp_path, differ)
    yield running
    await running.close()


@pytest.fixture
async def proxy(registry: Registry) -> AsyncIterator[FaultProxy]:
    """A proxy in front of the shared registry, without faults yet."""
    async with FaultProxy(f"http://{registry.address}") as running:
        yield running


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))
