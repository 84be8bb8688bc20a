"""Registration of the transfer service."""

from __future__ import annotations

from collections.abc import Sequence

from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from mooraged.transfer.config import TransferConfig
from mooraged.transfer.service import LocalTransfer


def init(context: InitContext[TransferConfig]) -> LocalTransfer:
    service = LocalTransfer(
        context.config,
        context.get(PluginType.METADATA),
        context.get(PluginType.SERVICE),
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
            requires=[PluginType.METADATA, PluginType.SERVICE],
            config=TransferConfig,
            documentation="Images between registries and the store.",
        )
    ]
