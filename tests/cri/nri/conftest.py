"""Fixtures of the tests of NRI: plugins of the shared daemon, and a pod to make containers in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from support.cri import CriClient
from support.daemon import Daemon
from support.nri import Join, NriPlugin, Pod


@pytest.fixture(scope="session")
def shared_daemon() -> Iterator[Daemon]:
    """One daemon for all of these modules, in place of one for each."""
    with Daemon() as running:
        yield running


@pytest.fixture
def join(shared_daemon: Daemon) -> Iterator[Join]:
    """Have plugins join; they leave with the test."""
    with ExitStack() as stack:

        def make(name: str = "test", index: str = "10", **options: Any) -> NriPlugin:
            return stack.enter_context(NriPlugin(shared_daemon.nri_socket, name, index, **options)).join()

        yield make


@pytest.fixture
def pod(cri: CriClient, busybox: str) -> Pod:
    """A pod that goes with the test."""
    return Pod(cri, busybox)
