"""An HTTP proxy in front of a registry that breaks things as it is told, and remembers what was asked.

Each `Fault` names the requests that it is for and how often it strikes; the first that fits is used. It runs on the
event loop of the test, so that the test can change the faults at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from support.webserver import Route, WebServer

FOREVER = 1 << 30
_HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})


@dataclass
class Fault:
    r"""What to do to requests whose `METHOD path` matches `match` (with the query, where `match` has a `\?`).

    `status`, `headers`, `body` replace those of the upstream's answer; with `status` 4xx or 5xx the upstream is not
    asked. `delay` seconds pass before the answer; after `cut` bytes of its body and `stall` seconds more the connection
    is cut. `flip` inverts the first byte of the body; `endless` goes on after its end; `chunked` hides
    its length; `ignore_range` asks the upstream for the whole; `redirect` sends the client to another base URL.
    `without` names headers to leave out.
    """

    match: str
    times: int = FOREVER
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    cut: int | None = None
    stall: float = 0.05
    flip: bool = False
    endless: bool = False
    chunked: bool = False
    ignore_range: bool = False
    redirect: str = ""
    without: tuple[str, ...] = ()


@dataclass
class Seen:
    """One request; `sent` counts the bytes of the answer's body."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    status: int = 0
    sent: int = 0


class FaultProxy(WebServer):
    """A proxy for the registry at `upstream` (a base URL); `address` is its own host:port."""

    def __init__(self, upstream: str, faults: list[Fault] | None = None) -> None:
        self.upstream = upstream
        self.faults = faults if faults is not None else []
        self.seen: list[Seen] = []
        self.rate = 0
        """Bytes a second for each answer's body; 0 for no limit."""

    def sent(self, match: str) -> int:
        """Bytes sent in answers to requests whose `METHOD path` matches."""
        return sum(seen.sent for seen in self.requests(match))

    def requests(self, match: str) -> list[Seen]:
        """Requests whose `METHOD path` matches."""
        return [seen for seen in self.seen if re.search(match, f"{seen.method} {seen.path}")]

    async def __aenter__(self) -> Self:
        self._closing = asyncio.Event()
        self._session = aiohttp.ClientSession(auto_decompress=False)
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        await super().__aexit__(kind, error, trace)
        await self._session.close()

    def routes(self) -> list[Route]:
        return [("*", "/{path:.*}", self._handle)]

    def _fault(self, request: web.Request) -> Fault:
        for fault in self.faults:
            asked = request.path_qs if r"\?" in fault.match else request.path
            if fault.times > 0 and re.search(fault.match, f"{request.method} {asked}"):
                fault.times -= 1
                return fault
        return Fault("")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault(request)
        seen = Seen(request.method, request.path, request.query_string, dict(request.headers))
        self.seen.append(seen)
        await asyncio.sleep(fault.delay)
        if fault.redirect:
            seen.status = 307
            return web.Response(status=307, headers={"Location": fault.redirect + request.path_qs})
        if fault.status >= 400:
            seen.status = fault.status
            await request.read()
            return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        if fault.ignore_range:
            headers.pop("Range", None)
        sent = await request.read()
        async with self._session.request(
            request.method, self.upstream + request.path_qs, headers=headers, data=sent or None, allow_redirects=False
        ) as answer:
            body = await answer.read() if fault.body is None else fault.body
            return await self._answer(request, seen, fault, answer, body)

    async def _answer(
        self, request: web.Request, seen: Seen, fault: Fault, answer: aiohttp.ClientResponse, body: bytes
    ) -> web.StreamResponse:
        left_out = _HOP_HEADERS | {name.lower() for name in fault.without}
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in left_out}
        if "Location" in kept:
            kept["Location"] = kept["Location"].replace(self.upstream, f"http://{self.address}")
        response = web.StreamResponse(status=fault.status or answer.status, headers={**kept, **fault.headers})
        seen.status = response.status
        if fault.flip and body:
            body = bytes([body[0] ^ 0xFF]) + body[1:]
        if fault.chunked or fault.endless:
            response.enable_chunked_encoding()
        elif "content-length" not in left_out - _HOP_HEADERS:
            length = answer.headers.get("Content-Length", "0") if request.method == "HEAD" else len(body)
            response.headers.setdefault("Content-Length", str(length))
        await response.prepare(request)
        if request.method != "HEAD":
            with contextlib.suppress(ConnectionError):  # the client has had enough
                await self._send(request, response, seen, fault, body)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, seen: Seen, fault: Fault, body: bytes
    ) -> None:
        part = body if fault.cut is None else body[: fault.cut]
        step = self.rate // 20 or 1 << 20
        if self.rate and request.transport is not None:
            # What is sent by now is not to wait in the kernel, however slow the client is.
            request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        for start in range(0, len(part), step):
            piece = part[start : start + step]
            await response.write(piece)
            seen.sent += len(piece)
            await asyncio.sleep(0.05 if self.rate else 0)
        while fault.endless:
            await response.write(bytes(1 << 16))
            seen.sent += 1 << 16
        if fault.cut is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), fault.stall)
            if request.transport is not None:
                request.transport.abort()
