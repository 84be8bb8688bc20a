"""The local content store: blobs and ingests as plain files under one folder."""

from moorage_content.store import LocalContentStore

__all__ = ["LocalContentStore"]
