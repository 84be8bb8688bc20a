"""Moorage beside Debian's containerd, in one run on one machine."""
