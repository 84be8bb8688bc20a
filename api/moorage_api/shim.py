"""Launchers: how the daemon gets a shim process. The shim itself is spoken to over ttrpc (`wire/shim_v3.proto`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from moorage_api.runtime import Exit


@dataclass(frozen=True, slots=True)
class ShimRequest:
    """Which shim to start. `bundle` exists and, for a task, holds `config.json`; a sandbox's shim has the sandbox's id.

    `ttrpc_address` is where the shim forwards its events; `daemon_address` is the daemon's gRPC socket.
    """

    id: str
    namespace: str
    bundle: Path
    ttrpc_address: str
    daemon_address: str
    socket_dir: Path
    debug: bool = False


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A shim that listens. `version` is that of its task service (2 or 3); `pid` is zero where it is not known."""

    address: str
    version: int = 3
    protocol: str = "ttrpc"
    pid: int = 0


@runtime_checkable
class ShimLauncher(Protocol):
    """Starts shims of one kind, and cleans up after those that died. The instance of a `PluginType.SHIM` plugin."""

    async def start(self, request: ShimRequest) -> Bootstrap:
        """Start a shim; when this returns it listens and outlives the daemon. On an error, nothing is left."""

    async def delete(self, request: ShimRequest) -> Exit:
        """Remove what a dead shim left (processes, mounts, the OCI runtime's state) and tell how its first process ended."""
