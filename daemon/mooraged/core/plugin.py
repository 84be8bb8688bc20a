"""Registration of the core, and of the folder for container logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from moorage_api.differ import Differ
from moorage_api.errors import NotFound
from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from mooraged.core.core import LocalCore, Parts
from mooraged.core.differs import DifferChain


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


class DiffConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which differs make and unpack layers."""

    default: Annotated[
        list[str],
        msgspec.Meta(min_length=1, description="Differs by name, asked in this order until one knows the layer."),
    ] = msgspec.field(default_factory=lambda: ["walking"])


def init_differs(context: InitContext[DiffConfig]) -> Differ:
    """The differs that are configured and have started. `NotFound` where none has."""
    started = context.get_all(PluginType.DIFFER)
    chosen = [started[name] for name in context.config.default if name in started]
    if not chosen:
        raise NotFound(f"no differ of {context.config.default} has started; there are {sorted(started)}")
    return chosen[0] if len(chosen) == 1 else DifferChain(chosen)


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
            wants=[PluginType.SERVICE, PluginType.RUNTIME, PluginType.TRANSFER, PluginType.GC],
            config=CoreConfig,
        ),
        Registration(PluginType.SERVICE, "diff-service", init_differs, requires=[PluginType.DIFFER], config=DiffConfig),
        Registration(PluginType.INTERNAL, "logs", init_logs),
    ]
