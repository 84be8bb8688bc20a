"""The HTTP/1.1 part of a streaming connection: one request, which is answered by an error or by another protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from moorage_api.errors import InvalidArgument
from moorage_cri.streaming.transport import Transport

_HEAD_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request; header names are in lower case."""

    method: str
    target: str
    headers: Sequence[tuple[bytes, bytes]]

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    def values(self, name: str) -> list[str]:
        """The values of a header that is a list, over all its lines."""
        lines = [value.decode("latin-1") for key, value in self.headers if key == name.encode()]
        return [value.strip() for line in lines for value in line.split(",") if value.strip()]

    def upgrades_to(self, protocol: str) -> bool:
        """Whether the client wants the connection to speak another protocol from now on."""
        return protocol.lower() in [value.lower() for value in self.values("upgrade")] and "upgrade" in [
            value.lower() for value in self.values("connection")
        ]


class Front:
    """Reads the request and writes the answer. `InvalidArgument` for what is not HTTP, or too long."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_MAX)
        self._handed_over = False

    async def read(self) -> Request | None:
        """The request; None where the client closes without one."""
        try:
            event = await self._next()
            if not isinstance(event, h11.Request):
                return None
            request = Request(event.method.decode(), event.target.decode(), list(event.headers))
            while not isinstance(await self._next(), h11.EndOfMessage):
                continue
        except h11.RemoteProtocolError as error:
            raise InvalidArgument(str(error)) from error
        return request

    def hand_over(self) -> bytes:
        """Another protocol has the connection now; returns what the client has already sent in it."""
        self._handed_over = True
        return self._http.trailing_data[0]

    async def switch(self, headers: Sequence[tuple[str, str]]) -> None:
        """Answer that the protocol is changed."""
        answer = h11.InformationalResponse(status_code=101, headers=list(headers), reason="Switching Protocols")
        await self.transport.write(self._http.send(answer))

    async def refuse(self, status: int, text: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Answer with an error; nothing once another protocol has the connection."""
        if self._handed_over:
            return
        body = f"{text}\n".encode()
        fields = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            *headers,
        ]
        data = self._http.send(h11.Response(status_code=status, headers=fields)) or b""
        data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self.transport.write(data)

    async def _next(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self.transport.read())
