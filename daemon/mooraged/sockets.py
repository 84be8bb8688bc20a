"""The daemon's sockets: its own, and those that services have besides."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from moorage_api.errors import InvalidArgument
from moorage_api.rpc import Service
from mooraged.config.schema import Grpc
from mooraged.locks import check_socket, exclusive
from mooraged.server import Server


class Sockets:
    """A server for each address; all have the owner and the limits of the daemon's own. `add` comes before `start`."""

    def __init__(self, config: Grpc, held: ExitStack) -> None:
        """`held` keeps the locks of the addresses; that of the daemon's own is taken already."""
        self._config = config
        self._held = held
        self._servers = {config.address: self._server()}

    def add(self, service: Service) -> None:
        """Serve `service` where it wants to be. `InvalidArgument` as of `Server.add`, or for an address that is no path."""
        address = service.address or self._config.address
        if not address.startswith("/"):
            raise InvalidArgument(f"{address!r} is not the path of a socket")
        if address not in self._servers:
            self._servers[address] = self._server()
        self._servers[address].add(service)

    async def start(self) -> None:
        """Bind all of them, the daemon's own last: who finds that finds the others. `FailedPrecondition`."""
        config = self._config
        for address, server in reversed(self._servers.items()):
            if address != config.address:
                self._held.enter_context(exclusive(f"{address}.lock", f"address {address}"))
                check_socket(address)
            await server.start(address, uid=config.uid, gid=config.gid)

    async def stop(self, grace: float) -> None:
        """Stop all of them side by side, as `Server.stop` says."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers.values()))

    def _server(self) -> Server:
        config = self._config
        return Server(max_recv=config.max_recv_message_size, max_send=config.max_send_message_size)
