"""The content store of the tests keeps the rules of content stores, but for outliving the process."""

from __future__ import annotations

from pathlib import Path

from moorage_api.content import NamespacedContent
from moorage_api.testing.content import ContentStoreSuite
from moorage_api.testing.memory import MemoryContentStore


class TestMemory(ContentStoreSuite):
    kept: MemoryContentStore | None = None

    def open_store(self, folder: Path) -> MemoryContentStore:
        self.kept = self.kept or MemoryContentStore()
        return self.kept


def test_it_is_a_namespaces() -> None:
    assert isinstance(MemoryContentStore(), NamespacedContent)
