"""Metadata: what exists, in which namespace, in one SQLite database, over backends that know of neither."""

from mooraged.metadata.content import SharingPolicy
from mooraged.metadata.metadata import Metadata, View

__all__ = ["Metadata", "SharingPolicy", "View"]
