"""The blocking client of a CRI runtime."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from moorage.cri.requests import stream_request
from moorage.cri.rpcs import DEADLINE, OPTIONS, Sync, target
from moorage.cri.services import ImageService, RuntimeService
from moorage.cri.streaming import connect as streams
from moorage.cri.streaming.blocking import Port, Process
from moorage.portal import shared
from moorage_api.closing import Closing
from moorage_api.errors import MoorageError
from moorage_api.wire import cri_pb2 as v1

PULL_SECONDS = 600.0
"""Seconds that a pull may take."""


class Client(RuntimeService, ImageService, Sync, Closing):
    """Every RPC by its own name, `client.StopContainer(container_id=…, timeout=1)`, and shorter ways to the common ones.

    `address` is the path of the runtime's socket, or a `unix://` URL; empty, what CONTAINER_RUNTIME_ENDPOINT says, as with
    crictl, or else Moorage's. `version` is `v1` or `v1alpha2`; `timeout` is the deadline of each call in seconds. Errors
    are those of `moorage_api.errors`, by the runtime's status. Nothing is dialled before the first call. May be used from
    several threads.
    """

    def __init__(
        self, address: str = "", version: str = "v1", timeout: float = DEADLINE, tls: ssl.SSLContext | None = None
    ) -> None:
        """`tls` is for stream servers that speak it and have a certificate that the host does not know."""
        self._channel = grpc.insecure_channel(target(address), OPTIONS)
        self._version, self._seconds = version, timeout
        self._stubs: dict[str, Any] = {}
        self._tls = tls

    def close(self) -> None:
        """Give up what is under way, and close the connection."""
        self._channel.close()

    def wait_ready(self, seconds: float = 30) -> None:
        """Return when the runtime says that it and its network are ready; `TimeoutError`, or the last error."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if all(condition.status for condition in self.Status().status.conditions[:2]):
                    return
            except MoorageError:
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise TimeoutError(f"the runtime is not ready: {self.Status()}")
            time.sleep(0.05)

    def pull(self, image: str, **fields: Any) -> str:
        """Pull an image; returns the reference to it. Fields of PullImageRequest (`auth`, …) by name."""
        return self.PullImage(image={"image": image}, deadline=PULL_SECONDS, **fields).image_ref

    def run_pod(self, config: v1.PodSandboxConfig, handler: str = "") -> str:
        """Make a pod with a runtime handler (empty: the default one); returns its id."""
        return self.RunPodSandbox(config=config, runtime_handler=handler).pod_sandbox_id

    def stop_pod(self, pod: str) -> None:
        """End all of a pod, its network too; its records stay. One that is stopped or unknown is no error."""
        self.StopPodSandbox(pod_sandbox_id=pod)

    def remove_pod(self, pod: str) -> None:
        """Remove a pod with its containers, by force. One that is unknown is no error."""
        self.RemovePodSandbox(pod_sandbox_id=pod)

    def create(self, pod: str, pod_config: v1.PodSandboxConfig, config: v1.ContainerConfig) -> str:
        """Make a container; returns its id."""
        return self.CreateContainer(pod_sandbox_id=pod, config=config, sandbox_config=pod_config).container_id

    def start(self, pod: str, pod_config: v1.PodSandboxConfig, config: v1.ContainerConfig) -> str:
        """Make a container and start it; returns its id."""
        id = self.create(pod, pod_config, config)
        self.StartContainer(container_id=id)
        return id

    def status(self, container: str) -> v1.ContainerStatus:
        """What is known of a container."""
        return self.ContainerStatus(container_id=container).status

    def stop(self, container: str, grace: int = 0) -> None:
        """Stop a container: its stop signal, `grace` seconds, then SIGKILL; without grace SIGKILL at once."""
        self.StopContainer(container_id=container, timeout=grace, deadline=grace + self._seconds)

    def remove(self, container: str) -> None:
        """Remove a container, by force. One that is unknown is no error."""
        self.RemoveContainer(container_id=container)

    def execute(self, container: str, *command: str, timeout: int = 10) -> v1.ExecSyncResponse:
        """Run a command in a container for at most `timeout` seconds; returns its output and exit code."""
        return self.ExecSync(container_id=container, cmd=command, timeout=timeout, deadline=timeout + 30)

    @contextmanager
    def exec(
        self, container: str, *command: str, stdin: bool = False, tty: bool = False, via: streams.Via = "spdy"
    ) -> Iterator[Process]:
        """Run a command in a container with its streams here, over SPDY or over a WebSocket."""
        request = stream_request(container, command, stdin=stdin, tty=tty)
        url = self.Exec(request).url
        asked = {name: getattr(request, name) for name in ("stdin", "stdout", "stderr", "tty")}
        with shared().enter(streams.process(url, via, tls=self._tls, **asked)) as process:
            yield Process(process)

    @contextmanager
    def attach(
        self, container: str, *, stdin: bool = False, tty: bool = False, via: streams.Via = "spdy"
    ) -> Iterator[Process]:
        """The streams of a container's own process, from now on; `tty` as the container has it."""
        asked = {"stdin": stdin, "stdout": True, "stderr": not tty, "tty": tty}
        url = self.Attach(container_id=container, **asked).url
        with shared().enter(streams.process(url, via, tls=self._tls, **asked)) as process:
            yield Process(process)

    @contextmanager
    def port_forward(self, pod: str, port: int, via: streams.Via = "spdy") -> Iterator[Port]:
        """One connection to a port of a pod, on its loopback."""
        url = self.PortForward(pod_sandbox_id=pod, port=[port]).url
        with shared().enter(streams.port(url, via, port, self._tls)) as connection:
            yield Port(connection)
