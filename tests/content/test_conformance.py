"""The conformance suite over the local content store."""

from __future__ import annotations

from pathlib import Path

from moorage_api.testing.content import ContentStoreSuite
from moorage_content import LocalContentStore


class TestLocalContentStore(ContentStoreSuite):
    keeps_labels = False

    def open_store(self, folder: Path) -> LocalContentStore:
        return LocalContentStore(folder)
