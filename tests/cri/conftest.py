"""Fixtures of the CRI tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cri import CriClient, with_image
from support.daemon import Daemon


@pytest.fixture
def cri(shared_daemon: Daemon, busybox: str) -> Iterator[CriClient]:
    """A client of the module's daemon, which has the image; whatever pods a test leaves are removed after it."""
    with with_image(shared_daemon, busybox) as client:
        yield client


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A pod's log directory, not made yet."""
    return tmp_path / "logs"
