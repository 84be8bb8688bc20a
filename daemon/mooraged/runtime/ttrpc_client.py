"""A ttrpc connection to a shim, over asyncio: many calls at once, a deadline on each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from moorage_api import ttrpc
from moorage_api.errors import DeadlineExceeded, Internal, MoorageError, Unavailable, Unimplemented

Closed = Callable[[str], None]


def socket_path(address: str) -> str:
    """The path to connect to: `unix:///path`, or the name of an abstract socket, as containerd's shims write it."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address if address.startswith("/") else f"\0{address}"
    if scheme != "unix":
        raise Unimplemented(f"shim address {address!r}: only unix sockets are supported")
    return rest


class TtrpcClient(asyncio.Protocol):
    """One connection. Losing it fails every outstanding call with `Unavailable` and calls `on_close` once, with the reason.

    `on_close` is not called when the connection ends by `close`.
    """

    def __init__(self, address: str, on_close: Closed) -> None:
        self.address = address
        self._on_close = on_close
        self._codec = ttrpc.Client()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.Event()
        self._deliberate = False

    @classmethod
    async def connect(cls, address: str, on_close: Closed, timeout: float) -> TtrpcClient:
        """Connect. `Unavailable` when nobody listens there, `DeadlineExceeded` when nobody accepts within `timeout`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                _, client = await loop.create_unix_connection(lambda: cls(address, on_close), socket_path(address))
        except TimeoutError:
            raise DeadlineExceeded(f"shim at {address} did not accept a connection within {timeout:g} s") from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"shim at {address} cannot be reached: {error}") from error
        return client

    @property
    def connected(self) -> bool:
        return self._transport is not None and not self._ended.is_set()

    def submit(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> asyncio.Future[bytes]:
        """Send a call; the future gets its answer. Cancelling the future makes a later answer be dropped.

        `timeout` is only told to the shim here; `call` also enforces it.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self._transport is None or self._ended.is_set():
            answer.set_exception(Unavailable(f"shim at {self.address} is gone"))
            return answer
        stream, data = self._codec.call(service, method, payload, timeout=timeout, metadata=metadata)
        self._calls[stream] = answer
        answer.add_done_callback(lambda _: self._forget(stream))
        self._transport.write(data)
        return answer

    async def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """Call and wait. `DeadlineExceeded` after `timeout` seconds, `Unavailable` when the connection is lost."""
        answer = self.submit(service, method, payload, timeout=timeout, metadata=metadata)
        if timeout is None:
            return await answer
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            name = f"{service.rpartition('.')[2]}.{method}"
            raise DeadlineExceeded(f"shim at {self.address} did not answer {name} within {timeout:g} s") from None

    def close(self) -> None:
        """End the connection; outstanding calls fail. The shim lives on."""
        self._deliberate = True
        if self._transport is not None:
            self._transport.abort()
        self._fail("the connection was closed")

    async def ended(self) -> None:
        """Return when the connection has ended, by whichever side."""
        await self._ended.wait()

    def expect_end(self) -> None:
        """From now on the end of the connection is expected (the shim was told to shut down): `on_close` is not called."""
        self._deliberate = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._codec.receive(data):
                if isinstance(event, ttrpc.ResponseReceived):
                    self._resolve(event)
        except ttrpc.ProtocolError as error:
            self._end(f"it broke the protocol: {error.message}")
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("its connection ended" if exc is None else f"its connection broke: {exc}")

    def _resolve(self, event: ttrpc.ResponseReceived) -> None:
        answer = self._calls.pop(event.stream, None)
        if answer is None or answer.done():
            return
        if event.error is None:
            answer.set_result(event.payload)
        else:
            answer.set_exception(event.error)

    def _forget(self, stream: int) -> None:
        if self._calls.pop(stream, None) is not None:
            self._codec.forget(stream)

    def _end(self, reason: str) -> None:
        if self._ended.is_set():
            return
        self._fail(reason)
        if not self._deliberate:
            self._on_close(reason)

    def _fail(self, reason: str) -> None:
        self._ended.set()
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(Unavailable(f"shim at {self.address} is gone: {reason}"))


def consumed(answer: asyncio.Future[bytes]) -> MoorageError | None:
    """The error of a finished call, or None; an unexpected exception becomes `Internal`."""
    error = answer.exception()
    if error is None or isinstance(error, MoorageError):
        return error
    return Internal(f"ttrpc call failed: {error}")
