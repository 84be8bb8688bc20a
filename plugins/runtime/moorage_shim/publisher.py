"""Publishes events to the daemon (`containerd.services.events.ttrpc.v1.Events/Forward`), in order, without waiting.

While the daemon is away the events wait in a bounded queue. When it is full the oldest goes: what matters most, an exit,
is on disk and is asked for by a daemon that comes back.
"""

from __future__ import annotations

import time
from collections import deque

from google.protobuf.message import Message

from moorage_api.errors import DeadlineExceeded, MoorageError, Unavailable
from moorage_api.wire.events_ttrpc_pb2 import ForwardRequest
from moorage_shim import log
from moorage_shim.client import Connection
from moorage_shim.loop import Loop, Task

SERVICE = "containerd.services.events.ttrpc.v1.Events"
_QUEUE = 2048
_CALL_TIMEOUT = 5.0
_PAUSE_FIRST = 0.05
_PAUSE_MAX = 1.0


class Publisher:
    """The queue, and the connection behind it. Without an address everything is dropped."""

    def __init__(self, loop: Loop, address: str, namespace: str) -> None:
        self._loop = loop
        self._path = address.removeprefix("unix://")
        self._namespace = namespace
        self._queue: deque[bytes] = deque(maxlen=_QUEUE)
        self._worker: Task[None] | None = None
        self._connection: Connection | None = None

    def publish(self, topic: str, event: Message) -> None:
        """Tell the daemon, some time. Never blocks."""
        if not self._path:
            return
        request = ForwardRequest()
        envelope = request.envelope
        envelope.timestamp.FromNanoseconds(time.time_ns())
        envelope.namespace = self._namespace
        envelope.topic = topic
        envelope.event.type_url = event.DESCRIPTOR.full_name
        envelope.event.value = event.SerializeToString()
        if len(self._queue) == _QUEUE:
            log.once("the daemon is away for long: events are being dropped")
        self._queue.append(request.SerializeToString())
        if self._worker is None:
            self._worker = self._loop.spawn(self._work(), "event publisher")

    async def flush(self, seconds: float) -> None:
        """Wait until all is told, for a bounded time."""
        worker = self._worker
        if worker is not None:
            try:
                await self._loop.within(worker, seconds, "daemon")
            except MoorageError as error:
                log.warning(f"{len(self._queue)} events were not published: {error.message}")

    async def _work(self) -> None:
        """Send the queue's first event until it is taken or refused, then the next."""
        pause = _PAUSE_FIRST
        try:
            while self._queue:
                event = self._queue[0]
                try:
                    await self._forward(event)
                except (Unavailable, DeadlineExceeded):
                    await self._loop.sleep(pause)
                    pause = min(pause * 2, _PAUSE_MAX)
                    continue
                except MoorageError as error:
                    log.warning(f"the daemon refused an event: {error.message}")
                pause = _PAUSE_FIRST
                if self._queue and self._queue[0] is event:
                    self._queue.popleft()
        finally:
            self._worker = None

    async def _forward(self, event: bytes) -> None:
        """One call. Its failure closes the connection, so that the next starts anew."""
        if self._connection is None:
            self._connection = Connection(self._loop, self._path)
        try:
            metadata = {"containerd-namespace-ttrpc": self._namespace}
            await self._connection.call(SERVICE, "Forward", event, _CALL_TIMEOUT, metadata)
        except (Unavailable, DeadlineExceeded):
            self.close()
            raise

    def close(self) -> None:
        """Give up the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
