"""Registration of the services, each a plugin under containerd's id.

A service's module is imported when its plugin is initialised, so that one that cannot be leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from moorage_api.rpc import Service

_CORE = f"{PluginType.INTERNAL.value}.core"
_GRAPH = f"{PluginType.INTERNAL.value}.graph"


def _of_core(module: str) -> Callable[[InitContext[None]], Service]:
    """An `init` for a service that needs the core and nothing else."""

    def init(context: InitContext[None]) -> Service:
        served: Service = import_module(f"mooraged.services.{module}").service(context.get(PluginType.INTERNAL, "core"))
        return served

    return init


def init_images(context: InitContext[None]) -> Service:
    from mooraged.services import images

    return images.service(context.get(PluginType.INTERNAL, "core"), context.get(PluginType.GC).collect)


def init_garbage(context: InitContext[None]) -> Service:
    from mooraged.gc.report import Reporter
    from mooraged.services import garbage

    reporter = Reporter(context.get(PluginType.METADATA), context.get(PluginType.GC).collect)
    return garbage.service(context.get(PluginType.INTERNAL, "core"), reporter)


def init_events(context: InitContext[None]) -> Service:
    from mooraged.services import events

    return events.service(context.get(PluginType.EVENT))


def init_introspection(context: InitContext[None]) -> Service:
    from mooraged.services import introspection

    return introspection.service(context.get(PluginType.INTERNAL, "graph"), introspection.load_uuid(context.root))


def init_version(context: InitContext[None]) -> Service:
    from mooraged.services import version

    return version.service(context.daemon.version)


def init_health(context: InitContext[None]) -> Service:
    from mooraged.services import health

    return health.service()


def init_streaming(context: InitContext[None]) -> Any:
    from mooraged.services.streaming import StreamManager

    return StreamManager()


def init_streaming_service(context: InitContext[None]) -> Service:
    from mooraged.services import streaming

    return streaming.service(context.get(PluginType.STREAMING))


def init_mount_manager(context: InitContext[None]) -> Any:
    from mooraged.mounts.manager import LocalMountManager

    return LocalMountManager(context.state, [context.daemon.root])


def init_mounts(context: InitContext[None]) -> Service:
    from mooraged.services import mounts

    return mounts.service(context.get(PluginType.INTERNAL, "core"), context.get(PluginType.MOUNT_MANAGER))


def init_transfer(context: InitContext[None]) -> Service:
    from mooraged.services import transfer

    return transfer.service(context.get(PluginType.TRANSFER), context.get(PluginType.STREAMING))


@hookimpl
def moorage_register() -> Sequence[Registration]:
    grpc = PluginType.GRPC
    return [
        *(
            Registration(grpc, module, _of_core(module), requires=[_CORE])
            for module in ("containers", "content", "leases", "namespaces", "snapshots")
        ),
        Registration(grpc, "diff", _of_core("diff"), requires=[_CORE, PluginType.SERVICE]),
        Registration(grpc, "images", init_images, requires=[_CORE, PluginType.GC]),
        Registration(grpc, "garbage", init_garbage, requires=[_CORE, PluginType.METADATA, PluginType.GC]),
        Registration(grpc, "events", init_events, requires=[PluginType.EVENT]),
        Registration(grpc, "introspection", init_introspection, requires=[_GRAPH]),
        Registration(grpc, "version", init_version),
        Registration(grpc, "healthcheck", init_health),
        Registration(PluginType.STREAMING, "manager", init_streaming),
        Registration(grpc, "streaming", init_streaming_service, requires=[PluginType.STREAMING]),
        Registration(PluginType.MOUNT_MANAGER, "local", init_mount_manager),
        Registration(grpc, "mounts", init_mounts, requires=[_CORE, PluginType.MOUNT_MANAGER]),
        Registration(grpc, "transfer", init_transfer, requires=[PluginType.TRANSFER, PluginType.STREAMING]),
        Registration(grpc, "tasks", _of_core("tasks"), requires=[_CORE, PluginType.RUNTIME]),
        Registration(grpc, "attachments", _of_core("attachments"), requires=[_CORE, PluginType.RUNTIME]),
        Registration(grpc, "sandboxes", _of_core("sandbox"), requires=[_CORE, PluginType.RUNTIME]),
    ]
