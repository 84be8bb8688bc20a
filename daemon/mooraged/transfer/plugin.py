"""Registration of the transfer service."""

from __future__ import annotations

from collections.abc import Sequence

from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from mooraged.transfer.apart import TransfersApart
from mooraged.transfer.config import TransferConfig
from mooraged.transfer.hosts import seconds
from mooraged.transfer.service import LocalTransfer
from mooraged.transfer.verifiers import Bindir, BindirConfig, Gate


def init(context: InitContext[TransferConfig]) -> TransfersApart:
    engine = LocalTransfer(
        context.config,
        context.get(PluginType.METADATA),
        context.get(PluginType.SERVICE),
        f"moorage/{context.daemon.version}",
        Gate(context.get_all(PluginType.IMAGE_VERIFIER), context.failures(PluginType.IMAGE_VERIFIER)),
    )
    transfers = TransfersApart(engine)
    context.on_stop(transfers.close)
    return transfers


def init_bindir(context: InitContext[BindirConfig]) -> Bindir:
    config = context.config
    timeout = config.per_verifier_timeout
    return Bindir(config.bin_dir, config.max_verifiers, seconds(timeout) if isinstance(timeout, str) else timeout)


@hookimpl
def moorage_register() -> Sequence[Registration]:
    return [
        Registration(
            PluginType.TRANSFER,
            "local",
            init,
            requires=[PluginType.METADATA, PluginType.SERVICE],
            wants=[PluginType.IMAGE_VERIFIER],
            config=TransferConfig,
            documentation="Images between registries, archives and the store.",
        ),
        Registration(
            PluginType.IMAGE_VERIFIER,
            "bindir",
            init_bindir,
            config=BindirConfig,
            documentation="Programs of a folder that must accept an image before it is pulled.",
        ),
    ]
