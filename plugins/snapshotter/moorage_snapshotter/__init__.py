"""The snapshotters that come with Moorage."""
