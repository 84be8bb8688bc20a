"""The local content store."""
