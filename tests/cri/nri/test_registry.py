"""`moorage_cri.nri.registry` with a domain of the test's own: what a plugin that joins does to calls that hang."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from moorage_api.errors import FailedPrecondition, Unavailable
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.nri import registry
from moorage_cri.nri.config import NriConfig
from moorage_cri.nri.listener import listen, remove
from moorage_cri.nri.registry import Registry
from support.nri import NriPlugin


class Domain:
    """One pod."""

    async def state(self) -> tuple[list[pb.PodSandbox], list[pb.Container]]:
        return [pb.PodSandbox(id="pod")], []

    async def change(
        self, plugin: str, updates: Sequence[pb.ContainerUpdate], evictions: Sequence[pb.ContainerEviction] = ()
    ) -> list[pb.ContainerUpdate]:
        return []


@pytest.fixture
async def running(short_tmp: Path) -> AsyncIterator[tuple[Registry, str]]:
    path = str(short_tmp / "nri.sock")
    nri = Registry(NriConfig(socket_path=path, plugin_path=str(short_tmp / "none")), listen(path))
    await nri.start(Domain(), "1.0")
    yield nri, path
    await nri.stop()


async def test_a_call_that_hangs_keeps_no_other_from_going_on(
    running: tuple[Registry, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_PATIENCE", 0.05)
    monkeypatch.setattr(registry, "_AGAIN", 0.05)
    nri, path = running
    async with nri.gate:
        plugin = await asyncio.to_thread(NriPlugin, path)
        await asyncio.to_thread(plugin.register)
        for _ in range(20):
            # While the first hangs, others come and go.
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                group.create_task(_change(nri))
        assert nri.idle
        assert plugin.seen("Synchronize") == []
    told = await asyncio.to_thread(plugin.wait_for, "Synchronize")
    assert [pod.id for pod in told.pods] == ["pod"]
    await asyncio.to_thread(plugin.close)
    async with asyncio.timeout(10):
        while not nri.idle:
            await asyncio.sleep(0.01)


async def _change(nri: Registry) -> None:
    async with nri.gate:
        await asyncio.sleep(0.01)


async def test_it_may_leave_while_it_waits(running: tuple[Registry, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_PATIENCE", 0.05)
    nri, path = running
    async with nri.gate:
        plugin = await asyncio.to_thread(NriPlugin, path)
        await asyncio.to_thread(plugin.register)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(plugin.close)
    assert nri.idle


async def test_it_registers_once(running: tuple[Registry, str]) -> None:
    plugin = await asyncio.to_thread(NriPlugin, running[1])
    await asyncio.to_thread(plugin.join)
    with pytest.raises(FailedPrecondition, match="registered as 10-test"):
        await asyncio.to_thread(plugin.register)
    await asyncio.to_thread(plugin.close)


class TestTheSocket:
    """It is made where there is none, or one that nobody uses."""

    def test_one_that_was_left_is_replaced(self, short_tmp: Path) -> None:
        path = str(short_tmp / "deep" / "nri.sock")
        listen(path).close()
        with listen(path):
            assert os.path.exists(path)
        remove(path)
        remove(path)
        assert not os.path.exists(path)

    def test_a_file_is_left_alone(self, short_tmp: Path) -> None:
        (short_tmp / "file").write_text("precious")
        with pytest.raises(Unavailable, match="cannot be made: Address already in use"):
            listen(str(short_tmp / "file"))
        assert (short_tmp / "file").read_text() == "precious"

    def test_a_path_that_is_too_long(self, short_tmp: Path) -> None:
        with pytest.raises(Unavailable, match="too long"):
            listen(str(short_tmp / ("x" * 120)))
