"""An HTTP server on the event loop of the test."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler

Route = tuple[str, str, Handler]
"""A method (`*`: any), a path as aiohttp has it, and who answers."""


class WebServer:
    """Serves on a free port of 127.0.0.1 for as long as the context lasts; `address` is `HOST:PORT`."""

    address: str

    def routes(self) -> Sequence[Route]:
        """What is served; of several that fit, the first answers."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=1 << 30)
        for route in self.routes():
            application.router.add_route(*route)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
