"""Fixtures of the runtime's tests: a root file system, and runtimes over shims of several kinds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.images import BUSYBOX
from support.runtime import DEBIAN, OURS, World
from support.session import new_id


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with busybox and links to its usual commands."""
    root = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp", "run"):
        (root / name).mkdir()
    shutil.copy2(BUSYBOX, root / "bin/busybox")
    for name in ("sh", "sleep", "echo", "true", "false", "cat", "kill"):
        (root / "bin" / name).symlink_to("busybox")
    return root


@pytest.fixture(params=[OURS, DEBIAN], ids=["moorage", "debian"])
def kind(request: pytest.FixtureRequest) -> str:
    """The runtime's name of the containers: each test runs over our own shim, and over a foreign one."""
    name: str = request.param
    return name


@pytest.fixture
async def world(kind: str, busybox_root: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A started runtime over shims of one kind; everything that it leaves is swept away."""
    name, value = "MOORAGE_TEST_ID", new_id()
    monkeypatch.setenv(name, value)  # inherited by shims and containers' runtimes
    world = World(Path(tempfile.mkdtemp(prefix="mr-")), busybox_root, f"{name}={value}", kind)
    await world.start()
    yield world
    await world.stop()
    world.remove()
