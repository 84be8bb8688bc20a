"""The client of a CRI runtime for programs with an event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import grpc

from moorage.cri.client import PULL_SECONDS
from moorage.cri.requests import stream_request
from moorage.cri.rpcs import DEADLINE, OPTIONS, Async, target
from moorage.cri.services import ImageService, RuntimeService
from moorage.cri.streaming import connect as streams
from moorage.cri.streaming.ports import AsyncPort
from moorage.cri.streaming.process import AsyncProcess
from moorage_api.errors import MoorageError
from moorage_api.wire import cri_pb2 as v1


class AsyncClient(RuntimeService, ImageService, Async):
    """As `Client`, with calls to be awaited: `await client.StopContainer(container_id=…, timeout=1)`."""

    def __init__(
        self, address: str = "", version: str = "v1", timeout: float = DEADLINE, tls: ssl.SSLContext | None = None
    ) -> None:
        """`tls` is for stream servers that speak it and have a certificate that the host does not know."""
        self._channel = grpc.aio.insecure_channel(target(address), OPTIONS)
        self._version, self._seconds = version, timeout
        self._stubs: dict[str, Any] = {}
        self._tls = tls

    async def close(self) -> None:
        """Give up what is under way, and close the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def wait_ready(self, seconds: float = 30) -> None:
        """Return when the runtime says that it and its network are ready; `TimeoutError`, or the last error."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                if all(condition.status for condition in (await self.Status()).status.conditions[:2]):
                    return
            except MoorageError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"the runtime is not ready: {await self.Status()}")
            await asyncio.sleep(0.05)

    async def pull(self, image: str, **fields: Any) -> str:
        """Pull an image; returns the reference to it. Fields of PullImageRequest (`auth`, …) by name."""
        return (await self.PullImage(image={"image": image}, deadline=PULL_SECONDS, **fields)).image_ref

    async def run_pod(self, config: v1.PodSandboxConfig, handler: str = "") -> str:
        """Make a pod with a runtime handler (empty: the default one); returns its id."""
        return (await self.RunPodSandbox(config=config, runtime_handler=handler)).pod_sandbox_id

    async def stop_pod(self, pod: str) -> None:
        """End all of a pod, its network too; its records stay. One that is stopped or unknown is no error."""
        await self.StopPodSandbox(pod_sandbox_id=pod)

    async def remove_pod(self, pod: str) -> None:
        """Remove a pod with its containers, by force. One that is unknown is no error."""
        await self.RemovePodSandbox(pod_sandbox_id=pod)

    async def create(self, pod: str, pod_config: v1.PodSandboxConfig, config: v1.ContainerConfig) -> str:
        """Make a container; returns its id."""
        return (await self.CreateContainer(pod_sandbox_id=pod, config=config, sandbox_config=pod_config)).container_id

    async def start(self, pod: str, pod_config: v1.PodSandboxConfig, config: v1.ContainerConfig) -> str:
        """Make a container and start it; returns its id."""
        id = await self.create(pod, pod_config, config)
        await self.StartContainer(container_id=id)
        return id

    async def status(self, container: str) -> v1.ContainerStatus:
        """What is known of a container."""
        return (await self.ContainerStatus(container_id=container)).status

    async def stop(self, container: str, grace: int = 0) -> None:
        """Stop a container: its stop signal, `grace` seconds, then SIGKILL; without grace SIGKILL at once."""
        await self.StopContainer(container_id=container, timeout=grace, deadline=grace + self._seconds)

    async def remove(self, container: str) -> None:
        """Remove a container, by force. One that is unknown is no error."""
        await self.RemoveContainer(container_id=container)

    async def execute(self, container: str, *command: str, timeout: int = 10) -> v1.ExecSyncResponse:
        """Run a command in a container for at most `timeout` seconds; returns its output and exit code."""
        return await self.ExecSync(container_id=container, cmd=command, timeout=timeout, deadline=timeout + 30)

    @asynccontextmanager
    async def exec(
        self, container: str, *command: str, stdin: bool = False, tty: bool = False, via: streams.Via = "spdy"
    ) -> AsyncIterator[AsyncProcess]:
        """Run a command in a container with its streams here, over SPDY or over a WebSocket."""
        request = stream_request(container, command, stdin=stdin, tty=tty)
        url = (await self.Exec(request)).url
        asked = {name: getattr(request, name) for name in ("stdin", "stdout", "stderr", "tty")}
        async with streams.process(url, via, tls=self._tls, **asked) as process:
            yield process

    @asynccontextmanager
    async def attach(
        self, container: str, *, stdin: bool = False, tty: bool = False, via: streams.Via = "spdy"
    ) -> AsyncIterator[AsyncProcess]:
        """The streams of a container's own process, from now on; `tty` as the container has it."""
        asked = {"stdin": stdin, "stdout": True, "stderr": not tty, "tty": tty}
        url = (await self.Attach(container_id=container, **asked)).url
        async with streams.process(url, via, tls=self._tls, **asked) as process:
            yield process

    @asynccontextmanager
    async def port_forward(self, pod: str, port: int, via: streams.Via = "spdy") -> AsyncIterator[AsyncPort]:
        """One connection to a port of a pod, on its loopback."""
        url = (await self.PortForward(pod_sandbox_id=pod, port=[port])).url
        async with streams.port(url, via, port, self._tls) as connection:
            yield connection
