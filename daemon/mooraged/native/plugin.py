"""Registration of the restart monitor, the health checks, and the folders for networks and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from mooraged.native.health import Health
from mooraged.native.monitor import Monitor

_LOGS = f"{PluginType.INTERNAL.value}.logs"
_VOLUMES = f"{PluginType.INTERNAL.value}.volumes"
_CORE = f"{PluginType.INTERNAL.value}.core"


class NetworksConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Networks of the command line's containers, through CNI."""

    bin_dirs: Annotated[tuple[str, ...], msgspec.Meta(description="Folders of CNI plugins.")] = (
        "/opt/cni/bin",
        "/usr/lib/cni",
    )
    conf_dir: Annotated[str, msgspec.Meta(description="Folder of the networks; empty: below the daemon's root.")] = ""
    bridge: Annotated[
        str, msgspec.Meta(min_length=1, max_length=15, description="The interface of the network `bridge`.")
    ] = "moorage0"
    subnets: Annotated[
        str, msgspec.Meta(description="Where networks that name no subnet get theirs from, a /24 each (IPv4).")
    ] = "10.61.0.0/16"


def init_networks(context: InitContext[NetworksConfig]) -> Path:
    """The folders of networks: clients define networks in one, the other holds what containers have of them now."""
    config = context.config
    conf_dir = Path(config.conf_dir) if config.conf_dir else context.root / "conf"
    context.exports.update(
        conf_dir=str(conf_dir),
        state=str(context.state),
        bin_dirs=":".join(config.bin_dirs),
        bridge=config.bridge,
        subnets=config.subnets,
    )
    return conf_dir


def init_volumes(context: InitContext[None]) -> Path:
    """The folder of named volumes: `<namespace>/<name>/_data`."""
    context.exports["root"] = str(context.root)
    return context.root


def init_monitor(context: InitContext[None]) -> Monitor:
    core, logs, volumes = (context.get(PluginType.INTERNAL, id) for id in ("core", "logs", "volumes"))
    monitor = Monitor(core, logs, volumes)
    context.on_ready(monitor.start)
    context.on_stop(monitor.stop)
    return monitor


def init_health(context: InitContext[None]) -> Health:
    checks = Health(context.get(PluginType.INTERNAL, "core"))
    context.on_ready(checks.start)
    context.on_stop(checks.stop)
    return checks


@hookimpl
def moorage_register() -> Sequence[Registration]:
    return [
        Registration(PluginType.INTERNAL, "networks", init_networks, config=NetworksConfig),
        Registration(PluginType.INTERNAL, "volumes", init_volumes),
        Registration(PluginType.INTERNAL, "health", init_health, requires=[_CORE], wants=[PluginType.RUNTIME]),
        Registration(
            PluginType.INTERNAL, "restart", init_monitor, requires=[_CORE, _LOGS, _VOLUMES], wants=[PluginType.RUNTIME]
        ),
    ]
