"""Events: what happened, to whoever listens (`containerd.services.events.v1`). Replayed to nobody who does not ask for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from google.protobuf.message import Message

from moorage_api.types import TypedValue

SINCE_HEADER = "moorage-events-since"
"""A header of Subscribe, Unix nanoseconds: what is still kept of the events since then comes first."""
UNTIL_HEADER = "moorage-events-until"
"""A header of Subscribe, Unix nanoseconds: the stream ends then, at once where that is past."""
HISTORY_EXPORT = "history"
"""The export of an event bus that heeds the two: how many events it keeps."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event. `topic` starts with a slash and names what happened: `/tasks/exit`."""

    timestamp: int
    namespace: str
    topic: str
    event: TypedValue


class Subscription(Protocol):
    """Events for one reader, who must close it (`contextlib.aclosing`)."""

    def __aiter__(self) -> AsyncIterator[Envelope]: ...

    async def __anext__(self) -> Envelope:
        """The next event. `ResourceExhausted` for a reader that was cut off, `Unavailable` when the daemon stops."""

    async def aclose(self) -> None:
        """End it. Closing twice is harmless."""


@runtime_checkable
class EventBus(Protocol):
    """Publishing never blocks and may be called from any thread; a reader too slow for its queue is cut off."""

    def publish(self, namespace: str, topic: str, event: Message) -> None:
        """Tell everyone now. `InvalidArgument` for a topic without a leading slash or a malformed namespace."""

    def forward(self, envelope: Envelope) -> None:
        """Tell what happened elsewhere (a shim), with its own time. Errors as `publish`."""

    def subscribe(self, filters: Sequence[str] = (), since: int | None = None) -> Subscription:
        """Events from the moment of this call that match any filter (fields: namespace, topic, event.FIELD); before them,
        with `since` (Unix nanoseconds), those of that time or later that are still kept.

        The subscription starts when this returns, not at the first `anext`; closing the iterator ends it.
        A reader that falls 4096 events behind gets `ResourceExhausted`.
        """
