"""Registration of the transfer service."""

from __future__ import annotations

from collections.abc import Sequence

from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from mooraged.transfer.config import TransferConfig
from mooraged.transfer.service import LocalTransfer

_PREFERRED = "overlayfs"


def init(context: InitContext[TransferConfig]) -> LocalTransfer:
    default = context.config.snapshotter or _PREFERRED
    names = sorted(context.get_all(PluginType.SNAPSHOTTER), key=lambda name: (name != default, name))
    service = LocalTransfer(
        context.config,
        context.get(PluginType.METADATA),
        context.get(PluginType.DIFFER),
        names,
        f"moorage/{context.daemon.version}",
    )
    context.on_stop(service.close)
    return service


@hookimpl
def moorage_register() -> Sequence[Registration]:
    return [
        Registration(
            PluginType.TRANSFER,
            "local",
            init,
            requires=[PluginType.METADATA, PluginType.DIFFER],
            wants=[PluginType.SNAPSHOTTER],
            config=TransferConfig,
            documentation="Images between registries and the store.",
        )
    ]
