"""The conformance suite of content stores over a namespace's view of the local one, under both sharing policies."""

from __future__ import annotations

from pathlib import Path

from moorage_api.content import ContentStore
from moorage_api.testing.content import ContentStoreSuite
from moorage_content import LocalContentStore
from mooraged.metadata import Metadata, SharingPolicy


class TestIsolated(ContentStoreSuite):
    policy = SharingPolicy.ISOLATED

    def open_store(self, folder: Path) -> ContentStore:
        self.metadata = Metadata(folder / "meta", LocalContentStore(folder / "content"), {}, policy=self.policy)
        return self.metadata.bind("client").content

    def close_store(self, store: ContentStore) -> None:
        self.metadata.close()


class TestShared(TestIsolated):
    policy = SharingPolicy.SHARED
