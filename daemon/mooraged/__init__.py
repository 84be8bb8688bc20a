"""The Moorage daemon."""
