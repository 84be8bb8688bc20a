"""Warm up the zygote, so that a shim writes to as little of the memory that it shares as possible.

Python's interpreter rewrites code that runs often, and imports and caches appear at first use. What happens before the
fork happens once; what happens after it costs each shim its own copy of the page.
"""

from __future__ import annotations


def warm_up() -> None:
    """Run what a shim runs, without a container."""
