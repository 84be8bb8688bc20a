"""What a daemon tells of itself: its version, its plugins (`containerd.services.introspection.v1`, `version.v1`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty

from moorage.convert import from_platform
from moorage.session import Session
from moorage_api.errors import MoorageError, from_code
from moorage_api.types import Platform
from moorage_api.wire import introspection_pb2 as wire
from moorage_api.wire.introspection_pb2_grpc import IntrospectionStub
from moorage_api.wire.version_pb2_grpc import VersionStub

SKIPPED = "skip plugin"
"""What the error of a plugin begins or ends with that does not apply on this machine (containerd's words)."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin of the daemon; `error` is why it did not start, None where it runs."""

    type: str
    id: str
    requires: tuple[str, ...] = ()
    platforms: tuple[Platform, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    error: MoorageError | None = None

    @property
    def status(self) -> str:
        """`ok`, `skip` where it does not apply here, or `error`."""
        if self.error is None:
            return "ok"
        return "skip" if SKIPPED in self.error.message else "error"


@dataclass(frozen=True, slots=True)
class Server:
    """A running daemon: its lasting identity, and its process."""

    uuid: str
    pid: int
    pid_namespace: int


@dataclass(frozen=True, slots=True)
class Version:
    """What is running: the release, and the revision it was built from."""

    version: str
    revision: str


class Introspection:
    """Questions about the daemon itself; they need no namespace."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = IntrospectionStub(session.channel)

    async def version(self) -> Version:
        response = await self._session.call(VersionStub(self._session.channel).Version, Empty())
        return Version(response.version, response.revision)

    async def server(self) -> Server:
        response = await self._session.call(self._stub.Server, Empty())
        return Server(response.uuid, response.pid, response.pidns)

    async def plugins(self, *filters: str) -> list[Plugin]:
        """Those that match any of the filters (fields: type, id), failed ones too."""
        response = await self._session.call(self._stub.Plugins, wire.PluginsRequest(filters=filters))
        return [_plugin(plugin) for plugin in response.plugins]


def _plugin(message: wire.Plugin) -> Plugin:
    failed = message.HasField("init_err")
    return Plugin(
        type=message.type,
        id=message.id,
        requires=tuple(message.requires),
        platforms=tuple(from_platform(platform) for platform in message.platforms),
        exports=dict(message.exports),
        capabilities=tuple(message.capabilities),
        error=from_code(message.init_err.code, message.init_err.message) if failed else None,
    )
