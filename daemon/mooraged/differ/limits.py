"""What an archive may ask of this machine."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Beyond these an archive is refused. Sizes are bytes. `max_ratio` counts only beyond `ratio_floor` bytes, since
    small archives of zeros are common and harmless."""

    max_entries: int = 2_000_000
    max_size: int = 128 << 30
    max_ratio: int = 500
    ratio_floor: int = 2 << 30
    max_depth: int = 256
    max_path: int = 4095

    def ceiling(self, compressed: int) -> int:
        """How large a layer of `compressed` bytes may be: absolutely, and in proportion."""
        return min(self.max_size, max(self.ratio_floor, compressed * self.max_ratio))
