"""Registers the differ `walking`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from moorage_api.oci.platforms import default_platform
from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from mooraged.differ.limits import Limits
from mooraged.differ.pool import WorkerPool
from mooraged.differ.walking import WalkingDiffer, clear_scratch

_DEFAULT = Limits()


class DifferConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How layers are unpacked."""

    max_workers: Annotated[
        int, msgspec.Meta(ge=1, le=64, description="How many layers are unpacked or packed at the same time.")
    ] = 2
    max_entries: Annotated[int, msgspec.Meta(ge=1, description="The most entries that a layer may have.")] = (
        _DEFAULT.max_entries
    )
    max_size: Annotated[
        int, msgspec.Meta(ge=1, description="The most bytes that a layer, or a file in it, may have uncompressed.")
    ] = _DEFAULT.max_size
    max_ratio: Annotated[
        int,
        msgspec.Meta(
            ge=1, description="How many times its compressed size a layer may have, beyond the first ratio_floor bytes."
        ),
    ] = _DEFAULT.max_ratio
    ratio_floor: Annotated[
        int, msgspec.Meta(ge=0, description="Bytes that a layer may have whatever its compressed size.")
    ] = _DEFAULT.ratio_floor
    max_depth: Annotated[int, msgspec.Meta(ge=1, le=2048, description="The most names in a path of a layer.")] = (
        _DEFAULT.max_depth
    )
    early_sync: Annotated[
        bool,
        msgspec.Meta(
            description="Begin to bring the files of a large layer to disk while it is unpacked: a durable pull ends "
            "sooner. Of no use where the snapshotter is not durable."
        ),
    ] = True


def init(context: InitContext[DifferConfig]) -> WalkingDiffer:
    """Start the differ; its worker processes start when there is work."""
    config = context.config
    pool = WorkerPool(config.max_workers)
    context.on_stop(pool.stop)
    clear_scratch(context.state)
    limits = Limits(
        max_entries=config.max_entries,
        max_size=config.max_size,
        max_ratio=config.max_ratio,
        ratio_floor=config.ratio_floor,
        max_depth=config.max_depth,
    )
    context.platforms.append(default_platform())
    return WalkingDiffer(pool, limits, context.state, settle=config.early_sync)


@hookimpl
def moorage_register() -> Sequence[Registration]:
    return [Registration(PluginType.DIFFER, "walking", init, config=DifferConfig)]
