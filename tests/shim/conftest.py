"""Fixtures of the shim's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.shim import Node


@pytest.fixture(scope="session")
def code_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the zygotes of all tests find compiled code."""
    return tmp_path_factory.mktemp("pycache")


@pytest.fixture(params=["crun", "runc"])
async def node(request: pytest.FixtureRequest, code_cache: Path) -> AsyncIterator[Node]:
    """A node on each OCI runtime."""
    node = Node(request.param, code_cache)
    await node.daemon.start()
    yield node
    await node.close()


@pytest.fixture
async def crun_node(code_cache: Path) -> AsyncIterator[Node]:
    """A node for what does not depend on the OCI runtime."""
    node = Node("crun", code_cache)
    await node.daemon.start()
    yield node
    await node.close()
