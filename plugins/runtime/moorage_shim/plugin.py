"""Registration of the shim launcher."""

from __future__ import annotations

from typing import Annotated

import msgspec

from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from moorage_shim.launcher import ZygoteLauncher


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of the shim launcher."""

    start_timeout: Annotated[float, msgspec.Meta(description="Seconds that the start of a shim may take.", gt=0)] = 10.0
    delete_timeout: Annotated[
        float, msgspec.Meta(description="Seconds that cleaning up after a dead shim may take.", gt=0)
    ] = 90.0


def _init(context: InitContext[Config]) -> ZygoteLauncher:
    launcher = ZygoteLauncher(context.config.start_timeout, context.config.delete_timeout, context.root / "pycache")
    context.on_ready(launcher.prepare)
    context.on_stop(launcher.close)
    return launcher


@hookimpl
def moorage_register() -> list[Registration]:
    """The zygote's shims."""
    return [Registration(PluginType.SHIM, "moorage", _init, config=Config)]
