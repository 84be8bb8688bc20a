"""Who answers the calls that a connection takes."""

from __future__ import annotations

import asyncio
from typing import Protocol

from mooraged.grpc_server.stream import Method, Stream


class Application(Protocol):
    """Who answers the calls. Limits in bytes."""

    max_recv: int
    max_send: int

    def find(self, path: str) -> Method:
        """The method of that path; `Unimplemented` where there is none."""

    def run(self, stream: Stream) -> asyncio.Task[None]:
        """Run the stream's method in a task."""

    def limit(self, stream: Stream, timeout: float) -> None:
        """Expire the stream in `timeout` seconds."""
