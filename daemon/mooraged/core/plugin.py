"""Registration of the core, and of the folder for container logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from mooraged.core.core import LocalCore, Parts


class CoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The daemon's services as plugins have them."""

    threads: Annotated[
        int, msgspec.Meta(ge=1, le=1024, description="How many calls to stores and snapshotters run at once.")
    ] = 32


def init_core(context: InitContext[CoreConfig]) -> LocalCore:
    core = LocalCore(
        context.daemon,
        context.get(PluginType.METADATA),
        context.get(PluginType.EVENT),
        Parts(context.get),
        context.config.threads,
    )
    context.on_stop(core.close)
    return core


def init_logs(context: InitContext[None]) -> Path:
    """The folder under which clients choose a path for each container's log: `<namespace>/<id>/<n>.log`."""
    context.exports["root"] = str(context.root)
    return context.root


@hookimpl
def moorage_register() -> Sequence[Registration]:
    return [
        Registration(
            PluginType.INTERNAL,
            "core",
            init_core,
            requires=[PluginType.METADATA, PluginType.EVENT],
            wants=[PluginType.DIFFER, PluginType.RUNTIME, PluginType.TRANSFER, PluginType.GC],
            config=CoreConfig,
        ),
        Registration(PluginType.INTERNAL, "logs", init_logs),
    ]
