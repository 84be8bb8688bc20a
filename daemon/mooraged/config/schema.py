"""Every key of the configuration file that is not a plugin's own.

The shape is containerd's (`version = 3`), so that whoever knows one knows the other. Descriptions are shown by
`mooraged config default`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from moorage_api.plugin import PluginType

DEFAULT_PATH = "/etc/moorage/config.toml"
DEFAULT_ADDRESS = "/run/moorage/moorage.sock"

LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")
Level = Literal["trace", "debug", "info", "warn", "error", "fatal", "panic"]
Format = Literal["text", "json"]

_Id = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFE)]


class Grpc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The socket that clients talk to."""

    address: Annotated[str, msgspec.Meta(description="Path of the Unix socket on which clients are served.")] = (
        DEFAULT_ADDRESS
    )
    uid: Annotated[_Id, msgspec.Meta(description="Owner of the socket (user id).")] = 0
    gid: Annotated[
        _Id, msgspec.Meta(description="Group of the socket; other than 0, its members may connect too (mode 0660).")
    ] = 0
    max_recv_message_size: Annotated[
        int, msgspec.Meta(ge=1024, le=0x7FFFFFFF, description="The largest request that is accepted, in bytes.")
    ] = 16 << 20
    max_send_message_size: Annotated[
        int, msgspec.Meta(ge=1024, le=0x7FFFFFFF, description="The largest response that is sent, in bytes.")
    ] = 16 << 20


class Ttrpc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The socket that shims publish their events to."""

    address: Annotated[
        str, msgspec.Meta(description="Path of the Unix socket for shims; empty: the gRPC address with .ttrpc added.")
    ] = ""
    uid: Annotated[_Id, msgspec.Meta(description="Owner of the socket (user id).")] = 0
    gid: Annotated[_Id, msgspec.Meta(description="Group of the socket.")] = 0


class Debug(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The daemon's own log, written to standard error."""

    level: Annotated[
        Level, msgspec.Meta(description="What is logged: trace, debug, info, warn, error, fatal or panic.")
    ] = "info"
    format: Annotated[Format, msgspec.Meta(description="How a line looks: text (logfmt) or json.")] = "text"


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Deadlines of the daemon itself, in seconds."""

    plugin_init: Annotated[
        float, msgspec.Meta(gt=0, description="How long one plugin may take to start before it counts as failed.")
    ] = 30.0
    shutdown: Annotated[
        float, msgspec.Meta(gt=0, description="How long all plugins together may take to stop. Containers run on.")
    ] = 15.0


class ProxyPlugin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plugin in another process, spoken to over gRPC on a Unix socket."""

    type: Annotated[
        Literal["snapshot", "content", "diff"], msgspec.Meta(description="What it is: snapshot, content or diff.")
    ] = "snapshot"
    address: Annotated[str, msgspec.Meta(description="Path of its Unix socket.")] = ""
    timeout: Annotated[
        float,
        msgspec.Meta(gt=0, description="How long it may take to answer one call before the call fails, in seconds."),
    ] = 120.0
    namespace: Annotated[
        str,
        msgspec.Meta(
            description="The namespace named to it for snapshots and content, if it has such; a differ gets the caller's."
        ),
    ] = "default"
    platform: Annotated[str, msgspec.Meta(description="The platform that it serves; empty: this one.")] = ""
    exports: Annotated[dict[str, str], msgspec.Meta(description="What it tells clients of itself.")] = {}
    capabilities: Annotated[list[str], msgspec.Meta(description="Capabilities that it shows to clients.")] = []


PROXY_TYPES = {"snapshot": PluginType.SNAPSHOTTER, "content": PluginType.CONTENT, "diff": PluginType.DIFFER}


def proxy_uri(name: str, proxy: ProxyPlugin) -> str:
    """How the plugin is called among the others."""
    return f"{PROXY_TYPES[proxy.type].value}.{name}"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. `plugins` is left as it is here: each plugin's table has its own type."""

    version: Annotated[Literal[3], msgspec.Meta(description="The version of this file's format.")] = 3
    root: Annotated[str, msgspec.Meta(description="Folder for what must survive a reboot.")] = "/var/lib/moorage"
    state: Annotated[str, msgspec.Meta(description="Folder for what a reboot clears.")] = "/run/moorage"
    disabled_plugins: Annotated[list[str], msgspec.Meta(description='Plugins that are not started, as "TYPE.ID".')] = []
    required_plugins: Annotated[
        list[str], msgspec.Meta(description='Plugins without which the daemon does not start, as "TYPE.ID".')
    ] = []
    grpc: Grpc = Grpc()
    ttrpc: Ttrpc = Ttrpc()
    debug: Debug = Debug()
    timeouts: Timeouts = Timeouts()
    proxy_plugins: Annotated[
        dict[str, ProxyPlugin], msgspec.Meta(description="Plugins in other processes, by name.")
    ] = {}
    plugins: Annotated[
        dict[str, dict[str, Any]], msgspec.Meta(description='The plugins\' own configuration, by "TYPE.ID".')
    ] = {}

    @property
    def ttrpc_address(self) -> str:
        """Where shims publish: as configured, or beside the gRPC socket."""
        return self.ttrpc.address or f"{self.grpc.address}.ttrpc"
