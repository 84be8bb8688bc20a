"""Shims of all bundles: launched, connected to, and cleaned up after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from moorage_api.core import Daemon
from moorage_api.errors import MoorageError
from moorage_api.runtime import Exit
from moorage_api.shim import Bootstrap, ShimLauncher, ShimRequest
from mooraged.runtime.bundle import Bundle, Endpoint, shim_pid
from mooraged.runtime.config import RuntimeConfig
from mooraged.runtime.foreign import ForeignLauncher
from mooraged.runtime.resolver import Handler, Resolver
from mooraged.runtime.shim import Shim, kill_process, start_time

log = logging.getLogger(__name__)
_CONNECT_SECONDS = 5.0


class Shims:
    """Makes `Shim`s. `on_death` is called with each that goes unasked, and with the reason."""

    def __init__(
        self,
        daemon: Daemon,
        config: RuntimeConfig,
        resolver: Resolver,
        socket_dir: Path,
        on_death: Callable[[Shim, str], None],
    ) -> None:
        self._daemon = daemon
        self._config = config
        self._resolver = resolver
        self._socket_dir = socket_dir
        self._on_death = on_death
        self._connected: set[Shim] = set()

    async def launch(self, bundle: Bundle, handler: Handler, *, sandbox: bool = False) -> Shim:
        """Start a shim for the bundle and connect to it. On an error, nothing of the shim is left."""
        request = self.request(bundle)
        async with asyncio.timeout(self._config.create_timeout):
            bootstrap = await handler.start(request)
        endpoint = _endpoint(bundle, bootstrap)
        try:
            await asyncio.to_thread(bundle.write_endpoint, endpoint)
            return await self._connect(endpoint, handler.launcher, request, _CONNECT_SECONDS, sandbox=sandbox)
        except Exception:
            await self.delete(bundle, handler.launcher_id)
            raise

    async def reconnect(
        self, bundle: Bundle, launcher_id: str, timeout: float, *, sandbox: bool = False
    ) -> Shim | None:
        """Connect to the shim that ran when the daemon last did; None when it runs no longer. `DeadlineExceeded`."""
        endpoint = bundle.endpoint()
        if endpoint is None:
            return None
        launcher = self._resolver.launcher(launcher_id)
        if isinstance(launcher, ForeignLauncher):
            launcher.attach_log(bundle.path)
        try:
            return await self._connect(endpoint, launcher, self.request(bundle), timeout, sandbox=sandbox)
        except MoorageError as error:
            log.info("shim of %s is not there any more: %s", bundle.id, error.message)
            return None

    async def delete(self, bundle: Bundle, launcher_id: str) -> Exit | None:
        """Make sure that the bundle's own shim is dead, and remove what it left. How its task ended, if anybody knows.

        Never fails: what can't be removed is logged, and tried again at the next start.
        """
        endpoint = bundle.endpoint() or _endpoint(bundle, Bootstrap(""))
        kill_process(endpoint.bootstrap.pid, endpoint.started)
        return await self.clean(bundle, launcher_id)

    async def clean(self, bundle: Bundle, launcher_id: str) -> Exit | None:
        """As `delete`, where there is no shim of the bundle's own, or it is dead."""
        try:
            launcher = self._resolver.launcher(launcher_id)
            async with asyncio.timeout(self._config.call_timeout):
                return await launcher.delete(self.request(bundle))
        except (MoorageError, TimeoutError, OSError) as error:
            log.warning("cleaning up after the shim of %s failed: %s", bundle.id, str(error) or "it took too long")
            return None

    def request(self, bundle: Bundle) -> ShimRequest:
        return ShimRequest(
            id=bundle.id,
            namespace=bundle.namespace,
            bundle=bundle.path,
            ttrpc_address=self._daemon.ttrpc_address,
            daemon_address=self._daemon.address,
            socket_dir=self._socket_dir,
            debug=self._config.shim_debug,
        )

    async def shutdown(self, shim: Shim) -> None:
        """End a shim in good order, by force if it does not follow. Never fails."""
        await shim.shutdown(self._config.shutdown_timeout)
        self._connected.discard(shim)
        if isinstance(shim.launcher, ForeignLauncher):
            shim.launcher.detach_log(shim.request.bundle)

    def close(self) -> None:
        """Disconnect from all shims, which live on."""
        for shim in self._connected:
            shim.client.close()
        self._connected.clear()

    async def _connect(
        self, endpoint: Endpoint, launcher: ShimLauncher, request: ShimRequest, timeout: float, *, sandbox: bool
    ) -> Shim:
        shim = await Shim.connect(endpoint, launcher, request, self._died, sandbox=sandbox, timeout=timeout)
        self._connected.add(shim)
        return shim

    def _died(self, shim: Shim, reason: str) -> None:
        with suppress(KeyError):
            self._connected.remove(shim)
        self._on_death(shim, reason)


def _endpoint(bundle: Bundle, bootstrap: Bootstrap) -> Endpoint:
    """The endpoint with the start time of the shim's process, whose pid may be known from the bundle only."""
    pid = bootstrap.pid or shim_pid(bundle.path)
    return Endpoint(
        Bootstrap(bootstrap.address, bootstrap.version, bootstrap.protocol, pid), start_time(pid) if pid else 0
    )
