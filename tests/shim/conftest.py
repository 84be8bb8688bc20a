"""Fixtures of the shim's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.shim import Node


@pytest.fixture(params=["crun", "runc"])
async def node(request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    """A node on each OCI runtime."""
    node = Node(request.param)
    await node.daemon.start()
    yield node
    await node.close()


@pytest.fixture
async def crun_node() -> AsyncIterator[Node]:
    """A node for what does not depend on the OCI runtime."""
    node = Node("crun")
    await node.daemon.start()
    yield node
    await node.close()
