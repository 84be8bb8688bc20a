"""Layers as EROFS images: the format, a writer, and how a differ and a snapshotter hand a layer to each other.

For authors of snapshotters and differs. `layer` says where a layer is written, `image` writes one from a tree of nodes,
`folder` makes one from a folder.
"""
