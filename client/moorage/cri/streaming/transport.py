"""The connection to a stream server: TCP or TLS, and the HTTP request that turns it into something else."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

import h11

from moorage_api.errors import InvalidArgument, Unavailable

CHUNK = 64 << 10
_SWITCHING = 101
_ANSWER_MAX = 4 << 10


class Transport:
    """Bytes to and from the server."""

    def __init__(self, url: SplitResult, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.url = url
        self._reader = reader
        self._writer = writer
        self._early = b""

    @classmethod
    async def connect(cls, url: str, tls: ssl.SSLContext | None = None) -> Transport:
        """Connect to the server of `url` (http or https; `tls` is for the latter). `Unavailable`, `InvalidArgument`."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidArgument(f"{url!r} is not an address of a stream server")
        secure = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        port = parts.port or (443 if secure else 80)
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
        except OSError as error:
            raise Unavailable(f"stream server {parts.netloc}: {error}") from error
        return cls(parts, reader, writer)

    @property
    def target(self) -> str:
        """What a request asks for: the path and the query."""
        return self.url.path + (f"?{self.url.query}" if self.url.query else "")

    async def upgrade(self, method: str, headers: Sequence[tuple[str, str]]) -> dict[str, str]:
        """Ask for another protocol; returns the answer's headers, in lower case. `Unavailable` with the answer's text
        where the server does not switch."""
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(method=method, target=self.target, headers=[("Host", self.url.netloc), *headers])
        await self.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        status, text = 0, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await self.read())
            elif isinstance(event, h11.InformationalResponse) and event.status_code == _SWITCHING:
                self._early = bytes(connection.trailing_data[0])
                return {name.decode().lower(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                text += event.data[:_ANSWER_MAX]
            elif not isinstance(event, h11.InformationalResponse):
                raise Unavailable(f"the stream server refused: {status} {text.decode(errors='replace').strip()}")

    async def read(self) -> bytes:
        """What has come; empty at the end."""
        if self._early:
            data, self._early = self._early, b""
            return data
        try:
            return await self._reader.read(CHUNK)
        except OSError as error:
            raise Unavailable(f"the stream server is gone: {error}") from error

    async def write(self, data: bytes) -> None:
        """Send; returns when the server takes more. `Unavailable` when it is gone."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise Unavailable(f"the stream server is gone: {error}") from error

    async def close(self) -> None:
        """Close the connection, whatever state it is in."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
