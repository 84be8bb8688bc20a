"""The open file descriptors of the test's own process."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def opened() -> Counter[str]:
    """What the descriptors lead to, and how many to each: a pipe or a socket has a number of its own."""
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            found[os.readlink(f"/proc/self/fd/{fd}")] += 1
    return found


@contextmanager
def none_left() -> Iterator[None]:
    """Nothing that is opened within stays open. What an earlier test left to the collector of garbage may be closed."""
    before = opened()
    yield
    left = opened() - before
    assert not left, left
