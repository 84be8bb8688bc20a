"""The bus itself: an implementation of `moorage_api.events.EventBus`.

Publishing takes a lock for as long as it takes to append to a few queues, whoever reads them. Readers live on an event
loop; each has a queue of its own and is woken once for any number of events. The last events are kept for readers who ask
for what they have missed.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Self

from google.protobuf.message import Message

from moorage_api.errors import InvalidArgument, MoorageError, ResourceExhausted, Unavailable
from moorage_api.events import Envelope, Subscription
from moorage_api.filters import Filter, parse
from moorage_api.types import TypedValue, check_identifier
from mooraged.events.adaptor import EnvelopeAdaptor

QUEUE_LENGTH = 4096
HISTORY_LENGTH = 1024


class Exchange:
    """All subscriptions. Thread-safe; a subscription belongs to the event loop that made it."""

    def __init__(self, queue_length: int = QUEUE_LENGTH, history_length: int = HISTORY_LENGTH) -> None:
        self._queue_length = queue_length
        self._history: deque[Envelope] = deque(maxlen=min(history_length, queue_length))
        self._lock = threading.Lock()
        self._subscriptions: dict[Reader, None] = {}

    def publish(self, namespace: str, topic: str, event: Message) -> None:
        payload = TypedValue(event.DESCRIPTOR.full_name, event.SerializeToString())
        self.forward(Envelope(time.time_ns(), namespace, topic, payload))

    def forward(self, envelope: Envelope) -> None:
        check_identifier(envelope.namespace, "namespace")
        check_topic(envelope.topic)
        if envelope.timestamp <= 0:
            raise InvalidArgument("a forwarded event needs its timestamp")
        adaptor = EnvelopeAdaptor(envelope)
        # Under the lock, so that all readers see all events in one order.
        with self._lock:
            self._history.append(envelope)
            for subscription in self._subscriptions:
                if subscription.filter.everything or subscription.filter.matches(adaptor):
                    subscription.push(envelope)

    def subscribe(self, filters: Sequence[str] = (), since: int | None = None) -> Subscription:
        subscription = Reader(self, parse(filters), self._queue_length)
        with self._lock:
            missed = [] if since is None else [each for each in self._history if each.timestamp >= since]
            for envelope in missed:
                if subscription.filter.matches(EnvelopeAdaptor(envelope)):
                    subscription.push(envelope)
            self._subscriptions[subscription] = None
        return subscription

    def remove(self, subscription: Reader) -> None:
        """Publish to `subscription` no more. Removing it twice is harmless."""
        with self._lock:
            self._subscriptions.pop(subscription, None)

    def close(self) -> None:
        """End all subscriptions: their readers get `Unavailable` once they have read what is queued."""
        with self._lock:
            subscriptions, self._subscriptions = self._subscriptions, {}
            for subscription in subscriptions:
                subscription.fail(Unavailable("the daemon is stopping"))


class Reader:
    """One reader's queue: an async iterator that ends when it is closed."""

    def __init__(self, exchange: Exchange, filter: Filter, queue_length: int) -> None:
        self.filter = filter
        self._exchange = exchange
        self._queue: deque[Envelope] = deque()
        self._queue_length = queue_length
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._readable = asyncio.Event()
        self._failure: MoorageError | None = None
        self._closed = False

    def push(self, envelope: Envelope) -> None:
        """Queue an event; a full queue cuts the reader off. The exchange's lock is held."""
        if self._failure is not None:
            return
        if len(self._queue) >= self._queue_length:
            self.fail(ResourceExhausted(f"the reader fell more than {self._queue_length} events behind"))
            return
        self._queue.append(envelope)
        if len(self._queue) == 1:
            self._wake()

    def fail(self, failure: MoorageError) -> None:
        """Let the reader have what is queued, then `failure`. The exchange's lock is held."""
        self._failure = failure
        self._wake()

    def _wake(self) -> None:
        if threading.get_ident() == self._thread:  # spares a system call for each reader
            self._readable.set()
            return
        try:
            self._loop.call_soon_threadsafe(self._readable.set)
        except RuntimeError:  # the loop is closed, and the reader with it
            self._queue.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Envelope:
        while not self._closed:
            # Cleared before the look, so that an event pushed after the look sets it again.
            self._readable.clear()
            if self._queue:
                return self._queue.popleft()
            if self._failure is not None:
                await self.aclose()
                raise self._failure
            await self._readable.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the subscription; closing twice is harmless."""
        self._closed = True
        self._readable.set()
        self._exchange.remove(self)


def check_topic(topic: str) -> str:
    """Return `topic` if it is a slash and identifiers with slashes between them, else raise `InvalidArgument`."""
    if not topic.startswith("/"):
        raise InvalidArgument(f"invalid topic {topic[:80]!r}: expected a leading slash")
    for component in topic[1:].split("/"):
        check_identifier(component, f"component of topic {topic[:80]!r}")
    return topic
