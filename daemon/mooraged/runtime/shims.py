"""Shims of all bundles: launched, connected to, and cleaned up after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from moorage_api.core import Daemon
from moorage_api.errors import DataLoss, DeadlineExceeded, MoorageError, NotFound
from moorage_api.runtime import Exit
from moorage_api.shim import Bootstrap, ShimLauncher, ShimRequest
from moorage_api.wire import shim_v3_pb2 as pb
from mooraged.runtime import cgroups, orphans
from mooraged.runtime.bundle import Bundle, Endpoint, shim_address, shim_pid
from mooraged.runtime.config import RuntimeConfig
from mooraged.runtime.foreign import ForeignLauncher
from mooraged.runtime.resolver import Handler, Resolver
from mooraged.runtime.shim import Shim, kill_process, start_time
from mooraged.runtime.stubs import TaskStub
from mooraged.runtime.ttrpc_client import TtrpcClient

log = logging.getLogger(__name__)
_CONNECT_SECONDS = 5.0
_DEATH_SECONDS = 2.0


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
        limit = self._config.create_timeout
        try:
            async with asyncio.timeout(limit):
                bootstrap = await handler.start(request)
        except TimeoutError:
            raise DeadlineExceeded(f"shim of {bundle.id} took longer than {limit:g} s to start") from None
        endpoint = _endpoint(bundle, bootstrap)
        try:
            bundle.write_endpoint(endpoint)  # on a tmpfs: shorter than the way to a thread and back
            return await self._connect(endpoint, handler.launcher, request, _CONNECT_SECONDS, sandbox=sandbox)
        except Exception:
            await self.delete(bundle, handler.launcher_id)
            raise

    async def reconnect(
        self, bundle: Bundle, launcher_id: str, timeout: float, *, sandbox: bool = False
    ) -> Shim | None:
        """Connect to the shim that ran when the daemon last did; None when it runs no longer. `DeadlineExceeded`."""
        endpoint = _stored_endpoint(bundle)
        if not endpoint.bootstrap.address or not _lives(endpoint):
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
        endpoint = _stored_endpoint(bundle)
        if not endpoint.started and endpoint.bootstrap.address and not self._shared(endpoint.bootstrap.address):
            endpoint = await self._identify(endpoint, bundle)
        await asyncio.to_thread(kill_process, endpoint.bootstrap.pid, endpoint.started, _DEATH_SECONDS)
        self._remove_socket(endpoint.bootstrap.address)
        return await self.clean(bundle, launcher_id)

    async def identify(self, shim: Shim, bundle: Bundle) -> None:
        """Learn the pid of a shim that did not tell it when it started, for the day when it has to be killed.

        A shim that several tasks share, each with a connection, is never killed for one of them.
        """
        if shim.endpoint.started or self._shared(shim.client.address, besides=shim):
            return
        try:
            answer = await shim.task.Connect(pb.ConnectRequest(id=bundle.id), timeout=self._config.call_timeout)
        except MoorageError as error:
            log.info("pid of the shim of %s is not known: %s", bundle.id, error.message)
            return
        shim.endpoint = _with_pid(shim.endpoint, answer.shim_pid)
        await asyncio.to_thread(bundle.write_endpoint, shim.endpoint)

    async def clean(self, bundle: Bundle, launcher_id: str) -> Exit | None:
        """As `delete`, where there is no shim of the bundle's own, or it is dead."""
        told = None
        try:
            launcher = self._resolver.launcher(launcher_id)
            async with asyncio.timeout(self._config.create_timeout):
                told = await launcher.delete(self.request(bundle))
        except (MoorageError, TimeoutError, OSError) as error:
            log.warning("cleaning up after the shim of %s failed: %s", bundle.id, str(error) or "it took too long")
        for stuck in await asyncio.to_thread(cgroups.remove_empty, bundle.path):
            log.warning("cgroup %s of %s is in use and stays", stuck, bundle.id)
        return told

    async def end_unknown(self, known: Iterable[str]) -> None:
        """End the shims that listen in our folder and at none of the `known` addresses: the daemon died before it could
        write down where they are."""
        addresses = set(known)
        paths = await asyncio.to_thread(orphans.sockets, self._socket_dir)
        await asyncio.gather(*(self._end_unknown(path) for path in paths if f"unix://{path}" not in addresses))

    async def _end_unknown(self, path: str) -> None:
        pid = await self._ask_pid(f"unix://{path}") or await asyncio.to_thread(orphans.listener, path)
        if await asyncio.to_thread(orphans.end, path, pid):
            log.info("ended shim %d, which was started for something that nobody was told of", pid)

    async def _ask_pid(self, address: str) -> int:
        """The pid that one of our shims says it has; zero when none answers."""
        try:
            client = await TtrpcClient.connect(address, lambda _: None, _CONNECT_SECONDS)
        except MoorageError:
            return 0
        try:
            answer = await TaskStub(client, "").Connect(pb.ConnectRequest(), timeout=_DEATH_SECONDS)
        except MoorageError:
            return 0
        finally:
            client.close()
        return answer.shim_pid

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
        """End a shim in good order, by force if it does not follow. Never fails. One that others share lives on."""
        self._connected.discard(shim)
        await shim.shutdown(self._config.shutdown_timeout, force=not self._shared(shim.client.address))
        _detach_log(shim)

    def kill(self, shim: Shim) -> None:
        """End a shim that does not answer by force, unless others share it."""
        self._connected.discard(shim)
        shim.client.expect_end()
        if not self._shared(shim.client.address):
            shim.kill()
        shim.client.close()
        _detach_log(shim)

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

    def _remove_socket(self, address: str) -> None:
        """A shim that was killed leaves its socket. Those of others lie elsewhere and are theirs."""
        path = Path(address.removeprefix("unix://"))
        if path.parent == self._socket_dir:
            path.unlink(missing_ok=True)

    def _shared(self, address: str, besides: Shim | None = None) -> bool:
        return any(other.client.address == address for other in self._connected if other is not besides)

    async def _identify(self, endpoint: Endpoint, bundle: Bundle) -> Endpoint:
        """The endpoint with the pid of its shim, if that runs and says it."""
        try:
            client = await TtrpcClient.connect(endpoint.bootstrap.address, lambda _: None, _CONNECT_SECONDS)
        except MoorageError:
            return endpoint
        stub = TaskStub(client, bundle.namespace, endpoint.bootstrap.version)
        try:
            answer = await stub.Connect(pb.ConnectRequest(id=bundle.id), timeout=self._config.shutdown_timeout)
            return _with_pid(endpoint, answer.shim_pid)
        except NotFound:
            # It has no such task, so it can be asked to go.
            with suppress(MoorageError):
                await stub.Shutdown(pb.ShutdownRequest(id=bundle.id, now=True), timeout=self._config.shutdown_timeout)
            return endpoint
        except MoorageError as error:
            log.warning("shim of %s does not say which process it is: %s", bundle.id, error.message)
            return endpoint
        finally:
            client.close()

    def _died(self, shim: Shim, reason: str) -> None:
        with suppress(KeyError):
            self._connected.remove(shim)
        self._on_death(shim, reason)


def _endpoint(bundle: Bundle, bootstrap: Bootstrap) -> Endpoint:
    """The endpoint with the start time of the shim's process, whose pid may be known from the bundle only."""
    return _with_pid(Endpoint(bootstrap), bootstrap.pid or shim_pid(bundle.path))


def _with_pid(endpoint: Endpoint, pid: int) -> Endpoint:
    bootstrap = endpoint.bootstrap
    named = Bootstrap(bootstrap.address, bootstrap.version, bootstrap.protocol, pid)
    return Endpoint(named, start_time(pid) if pid else 0)


def _lives(endpoint: Endpoint) -> bool:
    """False for a shim whose process has gone, though another that worked for it may still answer for a moment."""
    return not endpoint.started or start_time(endpoint.bootstrap.pid) == endpoint.started


def _stored_endpoint(bundle: Bundle) -> Endpoint:
    """What the bundle says of its shim; an address that the shim itself wrote where the daemon came to write nothing."""
    try:
        stored = bundle.endpoint()
    except DataLoss:
        stored = None
    return stored or _endpoint(bundle, Bootstrap(shim_address(bundle.path), 2))


def _detach_log(shim: Shim) -> None:
    if isinstance(shim.launcher, ForeignLauncher):
        shim.launcher.detach_log(shim.request.bundle)
