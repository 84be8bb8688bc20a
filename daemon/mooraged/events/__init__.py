"""The event bus."""

from mooraged.events.exchange import Exchange

__all__ = ["Exchange"]
