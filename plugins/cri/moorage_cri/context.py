"""What the plugin's parts share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from moorage_api.core import Core, Namespaced
from moorage_api.errors import NotFound
from moorage_api.sandboxes import SandboxStatus
from moorage_cri.background import Background
from moorage_cri.cdi.registry import DeviceRegistry
from moorage_cri.cni.netns import NetworkNamespaces
from moorage_cri.cni.network import Network
from moorage_cri.concurrency import finish
from moorage_cri.config import Config, RuntimeHandler
from moorage_cri.feed import Feed
from moorage_cri.image.cache import ImageCache
from moorage_cri.index import Index
from moorage_cri.model import Container, Sandbox
from moorage_cri.names import Names
from moorage_cri.nri.registry import Registry

P = ParamSpec("P")
T = TypeVar("T")

NAMESPACE = "k8s.io"
READY = "ready"


@dataclass(slots=True, eq=False)
class Cri:
    """The plugin's state and its handles. `root` survives a reboot, `state` does not."""

    config: Config
    core: Core
    k8s: Namespaced
    root: Path
    state: Path
    network: Network
    namespaces: NetworkNamespaces
    images: ImageCache
    background: Background
    nri: Registry = field(default_factory=Registry)
    cdi: DeviceRegistry = field(default_factory=DeviceRegistry)
    feed: Feed = field(default_factory=Feed)
    sandboxes: Index[Sandbox] = field(default_factory=lambda: Index("sandbox"))
    containers: Index[Container] = field(default_factory=lambda: Index("container"))
    sandbox_names: Names = field(default_factory=lambda: Names("sandbox"))
    container_names: Names = field(default_factory=lambda: Names("container"))

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a synchronous call in a thread of the daemon's pool; a cancelled caller still waits for its end."""
        return await finish(self.core.run(call, *args, **kwargs))

    def snapshotter_of(self, handler: RuntimeHandler) -> str:
        """The id of the snapshotter for containers of a runtime handler."""
        return handler.snapshotter or self.snapshotter

    @property
    def snapshotter(self) -> str:
        """The id of the snapshotter for images and containers, unless their handler says otherwise."""
        return self.config.snapshotter or self.core.default_snapshotter

    def sandbox_folder(self, id: str) -> Path:
        """Where the files of a pod lie: hosts, hostname, resolv.conf."""
        return self.root / "sandboxes" / id

    def container_folder(self, id: str) -> Path:
        """Where what belongs to a container lies: its status, its volumes."""
        return self.root / "containers" / id

    def image_volumes_folder(self, id: str) -> Path:
        """Where a container's image volumes are mounted."""
        return self.state / "image-volumes" / id

    def netns_path(self, sandbox: Sandbox) -> str:
        """A pod's network namespace; empty for the host's. A user namespace has to own it, so the shim makes both."""
        if sandbox.host_network:
            return ""
        if sandbox.user_namespace is None:
            return self.namespaces.path(sandbox.id)
        return f"{sandbox.path}/ns/net" if sandbox.path else ""

    def stdin_path(self, id: str) -> Path:
        """The FIFO that is a container's standard input, where it has one."""
        return self.state / "containers" / id / "stdin"

    def sandbox_status(self, id: str) -> SandboxStatus | None:
        """What the controller knows of a pod now; None where nothing of it is left."""
        try:
            return self.k8s.sandbox_controller.status(id)
        except NotFound:
            return None

    def is_ready(self, sandbox: Sandbox) -> bool:
        status = self.sandbox_status(sandbox.id)
        return status is not None and status.state == READY

    def containers_of(self, sandbox_id: str) -> list[Container]:
        return [container for container in self.containers if container.sandbox_id == sandbox_id]
