"""Registration of the garbage collector."""

from __future__ import annotations

from typing import Annotated

import msgspec

from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from mooraged.gc.collector import Collector
from mooraged.gc.scheduler import Policy, Scheduler
from mooraged.metadata import Metadata


class SchedulerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Garbage collection."""

    startup_delay: Annotated[
        float, msgspec.Meta(ge=0, description="Seconds from the daemon's start to its first collection.")
    ] = 0.1
    schedule_delay: Annotated[
        float, msgspec.Meta(ge=0, description="Seconds from the change that asks for a collection to the collection.")
    ] = 0.0
    mutation_threshold: Annotated[
        int, msgspec.Meta(ge=0, description="Collect after so many changes since the last time; 0: not for changes.")
    ] = 100
    deletion_threshold: Annotated[
        int,
        msgspec.Meta(
            ge=0, description="Collect at once after so many deletions, whatever pause_threshold says; 0: never."
        ),
    ] = 0
    pause_threshold: Annotated[
        float,
        msgspec.Meta(ge=0, le=0.5, description="The share of time that scheduled collections may hold up writes."),
    ] = 0.02


def _init(context: InitContext[SchedulerConfig]) -> Scheduler:
    config = context.config
    metadata: Metadata = context.get(PluginType.METADATA)
    policy = Policy(**msgspec.structs.asdict(config))
    scheduler = Scheduler(Collector(metadata), policy)
    metadata.on_mutation(scheduler.mutated)
    metadata.set_collector(scheduler.collect)

    async def start() -> None:
        scheduler.start()

    context.on_ready(start)
    context.on_stop(scheduler.stop)
    for name, value in msgspec.structs.asdict(config).items():
        context.exports[name] = str(value)
    return scheduler


@hookimpl
def moorage_register() -> list[Registration]:
    return [Registration(PluginType.GC, "scheduler", _init, requires=(PluginType.METADATA,), config=SchedulerConfig)]
