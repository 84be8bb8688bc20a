"""Stores over a private folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mooraged.metadata import View
from support.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = Storage(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def view(storage: Storage) -> View:
    """The namespace `one`."""
    return storage.bind("one")


@pytest.fixture
def other(storage: Storage) -> View:
    """The namespace `two`."""
    return storage.bind("two")
