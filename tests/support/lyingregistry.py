"""A registry that says whatever it is told to: for what a real one would never take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

from support.images import digest_of
from support.webserver import Route, WebServer


@dataclass(frozen=True)
class Answer:
    """What a path is answered with. `length` is the size that is claimed for the body, where it is not its own;
    `repeat`: the body comes over and over until the client has had enough; `cut`: the connection breaks after it."""

    body: bytes = b""
    media_type: str = "application/octet-stream"
    length: int | None = None
    repeat: bool = False
    cut: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


class LyingRegistry(WebServer):
    """Serves `answers`, by `manifests/NAME` and `blobs/DIGEST`, whatever the repository; `sent` counts bytes of bodies."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.sent = 0

    def put(self, data: bytes, media_type: str = "", **lies: object) -> str:
        """Serve a blob, or with a media type a manifest, by its digest; returns that."""
        digest = digest_of(data)
        kind = "manifests" if media_type else "blobs"
        self.answers[f"{kind}/{digest}"] = Answer(data, media_type or Answer.media_type, **lies)  # type: ignore[arg-type]
        return digest

    def routes(self) -> list[Route]:
        return [("*", "/v2/{path:.*}", self._handle)]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = "/".join(request.path.rsplit("/", 2)[-2:])
        answer = self.answers.get(path)
        if answer is None:
            return web.Response(status=404)
        response = web.StreamResponse(headers={"Content-Type": answer.media_type, **answer.headers})
        if path.startswith("manifests/"):
            response.headers.setdefault("Docker-Content-Digest", digest_of(answer.body))
        if answer.length is not None or not answer.repeat:
            response.content_length = len(answer.body) if answer.length is None else answer.length
        await response.prepare(request)
        if request.method != "HEAD":
            # The client may have had enough.
            with contextlib.suppress(ConnectionError):
                await self._send(request, response, answer)
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, answer: Answer) -> None:
        while True:
            await response.write(answer.body)
            self.sent += len(answer.body)
            if answer.cut and request.transport is not None:
                await asyncio.sleep(0.05)
                request.transport.abort()
            if not answer.repeat:
                return
