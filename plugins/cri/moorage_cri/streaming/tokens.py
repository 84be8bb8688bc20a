"""Tokens: what one call allowed, to be used once, and soon."""

from __future__ import annotations

import asyncio
import secrets
from typing import Generic, TypeVar

from moorage_api.errors import NotFound, ResourceExhausted

T = TypeVar("T")

LIFETIME = 60.0
"""Seconds within which a token must be used."""
OUTSTANDING_MAX = 1000
"""Tokens that may wait to be used."""
_BYTES = 16


class Tokens(Generic[T]):
    """What was allowed, by token. Each expires `lifetime` seconds after it was made."""

    def __init__(self, lifetime: float = LIFETIME) -> None:
        self._lifetime = lifetime
        self._grants: dict[str, tuple[float, T]] = {}

    def issue(self, grant: T) -> str:
        """A new token. `ResourceExhausted` when too many wait to be used."""
        self._expire()
        if len(self._grants) >= OUTSTANDING_MAX:
            raise ResourceExhausted(f"{OUTSTANDING_MAX} streaming requests wait for their clients")
        token = secrets.token_urlsafe(_BYTES)
        self._grants[token] = (asyncio.get_running_loop().time() + self._lifetime, grant)
        return token

    def redeem(self, token: str) -> T:
        """What the token allows; it is worth nothing from now on. `NotFound`."""
        self._expire()
        try:
            return self._grants.pop(token)[1]
        except KeyError:
            raise NotFound("the token is unknown, was used, or has expired") from None

    def _expire(self) -> None:
        """The oldest are first."""
        now = asyncio.get_running_loop().time()
        for token, (until, _) in list(self._grants.items()):
            if until > now:
                return
            del self._grants[token]
