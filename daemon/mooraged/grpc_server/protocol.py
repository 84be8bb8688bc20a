"""A connection's socket, on asyncio's loop."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable

from mooraged.grpc_server.application import Application
from mooraged.grpc_server.connection import Connection
from mooraged.grpc_server.failures import ErrorCode

logger = logging.getLogger(__name__)

# The transport keeps this much before a client counts as one that does not read. Then nothing is sent to it but what HTTP/2
# itself answers; and beyond the second mark nothing is read of it either, so that this has its bound, too.
_UNREAD_MAX = 256 << 10
_ANSWERS_MAX = 2 << 20
# How long a client may take to say its first words, and to read the last ones. Seconds.
_PREFACE = 60.0
_LAST_WORDS = 5.0
# What is written soon is written at once beyond this many bytes.
_SOON_MAX = 64 << 10


class GrpcProtocol(asyncio.BufferedProtocol):
    """Moves bytes between a transport and a `Connection`, whose `Output` it is."""

    def __init__(self, application: Application, buffer: memoryview, gone: Callable[[GrpcProtocol], None]) -> None:
        """`buffer` takes what is received. All connections of a loop may share it: it is done with before the loop looks at
        another one."""
        self.paused = False
        self.connection = Connection(self, application)
        self._buffer = buffer
        self._gone = gone
        self._soon: list[bytes] = []
        self._soon_size = 0
        # Held while something is sent, which may be by a thread.
        self._sending = threading.Lock()
        self._rest = b""  # of what a thread sent
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._fd = transport.get_extra_info("socket").fileno()
        transport.set_write_buffer_limits(high=_UNREAD_MAX)
        self._timer = self._loop.call_later(_PREFACE, self._expect_preface)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self.connection.receive(self._buffer[:nbytes])
        except Exception:
            logger.exception("a connection failed unexpectedly")
            self.connection.fail(ErrorCode.INTERNAL_ERROR, "internal error")
        if self.paused and self._transport.get_write_buffer_size() > _ANSWERS_MAX:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._transport.resume_reading()
        self.connection.sender.pump()

    def connection_lost(self, error: Exception | None) -> None:
        with self._sending:  # who writes has to be done with the descriptor, which is another's soon
            self._rest = b""
        if self._timer is not None:
            self._timer.cancel()
        self._soon.clear()
        self.connection.lost()
        self._gone(self)

    # The connection's side.

    def write(self, data: bytes) -> None:
        if self._soon:
            self._soon.append(data)
            self._flush()
        else:
            self._send(data)

    def write_soon(self, data: bytes) -> None:
        if not self._soon:
            self._loop.call_soon(self._flush)
        self._soon.append(data)
        self._soon_size += len(data)
        if self._soon_size > _SOON_MAX:
            self._flush()

    def write_from_thread(self, data: bytes, claim: Callable[[], bool]) -> bool:
        transport = self._transport
        with self._sending:
            if self._rest or transport.is_closing() or transport.get_write_buffer_size() or not claim():
                return False
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                # The loop is told, too.
                logger.debug("a client went before its answer", extra={"error": str(error)})
                return True
            if sent < len(data):
                self._rest = data[sent:]
                self._loop.call_soon_threadsafe(self._flush)
            return True

    def close(self) -> None:
        """Close once everything is sent, or when the client has not read it in time."""
        self._flush()
        self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_LAST_WORDS, self.abort)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _flush(self) -> None:
        soon, self._soon, self._soon_size = self._soon, [], 0
        self._send(b"".join(soon))

    def _send(self, data: bytes) -> None:
        """Send the rest of what a thread began to, and this."""
        with self._sending:
            if self._rest:
                data, self._rest = self._rest + data, b""
            if data and not self._transport.is_closing():  # else asyncio would complain of each write
                self._transport.write(data)

    def _expect_preface(self) -> None:
        if not self.connection.opened:
            self.connection.fail(ErrorCode.SETTINGS_TIMEOUT, "the client says nothing")
