"""Snapshotters that come with Moorage."""
