"""One plugin's connection, over asyncio: calls to the plugin, and calls of the plugin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from moorage_api import ttrpc
from moorage_api.errors import DeadlineExceeded, Internal, MoorageError, Unavailable, Unimplemented
from moorage_cri.nri import mux

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

Answer = Callable[[str, bytes], Awaitable[Message]]

PLUGIN_SERVICE = "nri.pkg.api.v1alpha1.Plugin"
RUNTIME_SERVICE = "nri.pkg.api.v1alpha1.Runtime"

# A plugin that heeds its deadline answers at that moment: so long, in seconds, its answer may be on the way.
_WAY_BACK = 0.5


class Gone(Unavailable):
    """The connection has ended, or ended before the answer came."""


class Hanging(DeadlineExceeded):
    """No answer came in time."""


class Rubbish(Internal):
    """What came is no answer."""


class Connection(asyncio.Protocol):
    """`answer` gets the method and the request of each call that the plugin makes. Losing the connection fails every
    outstanding call with `Gone`; `closed` is set by then."""

    def __init__(self, answer: Answer) -> None:
        self.closed = asyncio.Event()
        self._answer = answer
        self._decoder = mux.Decoder()
        self._client = ttrpc.Client()
        self._server = ttrpc.Server()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._transport: asyncio.Transport | None = None

    async def call(self, method: str, request: Message, answer: type[M], timeout: float) -> M:
        """Call the plugin, which has `timeout` seconds. `Gone`, `Hanging`, `Rubbish`, or the plugin's own error;
        `ResourceExhausted` for a request that is too long, of which nothing was sent."""
        if self._transport is None or self.closed.is_set():
            raise Gone("the connection is closed")
        stream, data = self._client.call(PLUGIN_SERVICE, method, request.SerializeToString(), timeout=timeout)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[stream] = future
        try:
            self._transport.write(mux.encode(mux.PLUGIN, data))
            async with asyncio.timeout(timeout + _WAY_BACK):
                return answer.FromString(await future)
        except TimeoutError:
            raise Hanging(f"{method} was not answered within {timeout:g} s") from None
        except DecodeError as error:
            raise Rubbish(f"the answer to {method} cannot be read") from error
        finally:
            if self._calls.pop(stream, None) is not None:
                self._client.forget(stream)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        for task in self._answering:
            task.cancel()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(Gone("the connection ended"))

    def data_received(self, data: bytes) -> None:
        try:
            for connection, payload in self._decoder.feed(data):
                if connection == mux.PLUGIN:
                    self._answers(payload)
                elif connection == mux.RUNTIME:
                    self._requests(payload)
        except ttrpc.ProtocolError as error:
            logger.warning("an NRI plugin broke the protocol: %s", error)
            self.close()

    def _answers(self, payload: bytes) -> None:
        for event in self._client.receive(payload):
            if not isinstance(event, ttrpc.ResponseReceived):
                continue
            future = self._calls.pop(event.stream, None)
            if future is None or future.done():
                continue
            if event.error is None:
                future.set_result(event.payload)
            else:
                future.set_exception(event.error)

    def _requests(self, payload: bytes) -> None:
        for event in self._server.receive(payload):
            if isinstance(event, ttrpc.Reply):
                self._send(event.data)
            elif isinstance(event, ttrpc.RequestReceived):
                name = f"NRI {event.method}"
                task = asyncio.get_running_loop().create_task(self._serve(event), name=name)
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _serve(self, request: ttrpc.RequestReceived) -> None:
        try:
            if request.service != RUNTIME_SERVICE:
                raise Unimplemented(f"unknown service {request.service}")
            message = await self._answer(request.method, request.payload)
            self._send(self._server.respond(request.stream, message.SerializeToString()))
        except MoorageError as error:
            self._send(self._server.fail(request.stream, error))
        except Exception:
            logger.exception("the NRI call %s failed", request.method)
            self._send(self._server.fail(request.stream, Internal(f"{request.method} failed; the log has the reason")))

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self.closed.is_set():
            self._transport.write(mux.encode(mux.RUNTIME, data))
