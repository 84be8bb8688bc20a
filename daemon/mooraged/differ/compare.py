"""Makes a layer of what differs between two snapshots, within a worker process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moorage_api.mounts import Mount
from mooraged.differ.apply import Applied
from mooraged.differ.media import Compression
from mooraged.differ.tar.events import TarError


def compare(
    lower: Sequence[Mount],
    upper: Sequence[Mount],
    compression: Compression,
    *,
    scratch: str,
    output: Callable[[bytes], None],
) -> Applied:
    raise TarError("not yet")
