"""How much a peer may ask for that costs it nothing and brings nobody anything."""

from __future__ import annotations

import time

from mooraged.grpc_server.failures import ConnectionFailed, ErrorCode


class Budget:
    """A bucket that leaks: more than `burst` at once, or `rate` a second for long, is abuse."""

    __slots__ = ("_burst", "_last", "_level", "_rate", "_what")

    def __init__(self, what: str, burst: int, rate: int) -> None:
        self._what = what
        self._burst = burst
        self._rate = rate
        self._level = 0.0
        self._last = time.monotonic()

    def spend(self, amount: int = 1) -> None:
        """`ConnectionFailed` (`ENHANCE_YOUR_CALM`) once it is too much."""
        now = time.monotonic()
        self._level = max(0.0, self._level - (now - self._last) * self._rate) + amount
        self._last = now
        if self._level > self._burst:
            raise ConnectionFailed(ErrorCode.ENHANCE_YOUR_CALM, f"too many {self._what}")

    def clear(self) -> None:
        """Forget what was spent: the peer is at work."""
        self._level = 0.0
