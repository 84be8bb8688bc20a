"""Checkpoints of containers and of whole pods, through criu, and pods restored from them."""
