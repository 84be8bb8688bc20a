"""Registration of the runtime."""

from __future__ import annotations

from collections.abc import Sequence

from moorage_api.oci.platforms import default_platform
from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl
from mooraged.runtime.config import RuntimeConfig
from mooraged.runtime.runtime import Runtime
from mooraged.runtime.ttrpc_server import TtrpcServer
from mooraged.services import events_ttrpc

_SANDBOX_FOLDER = f"{PluginType.SANDBOX_CONTROLLER.value}.shim"
_LOG_SCHEMES = "fifo,file,binary,cri"


async def init(context: InitContext[RuntimeConfig]) -> Runtime:
    runtime = Runtime(
        daemon=context.daemon,
        config=context.config,
        bus=context.get(PluginType.EVENT, "exchange"),
        records=context.get(PluginType.METADATA, "sqlite"),
        launchers=context.get_all(PluginType.SHIM),
        task_folder=context.state,
        sandbox_folder=context.daemon.state / _SANDBOX_FOLDER,
    )
    server = TtrpcServer([events_ttrpc.service(runtime)])

    async def start() -> None:
        # First the socket: shims that run on hold back their events until they can tell them.
        await server.start(context.daemon.ttrpc_address)
        await runtime.start()

    async def stop() -> None:
        await server.close()
        await runtime.stop()

    context.on_ready(start)
    context.on_stop(stop)
    context.exports["log-uri-schemes"] = _LOG_SCHEMES
    context.platforms.append(default_platform())
    return runtime


@hookimpl
def moorage_register() -> Sequence[Registration]:
    return [
        Registration(
            PluginType.RUNTIME,
            "task",
            init,
            requires=[PluginType.EVENT, PluginType.METADATA],
            wants=[PluginType.SHIM],
            config=RuntimeConfig,
        )
    ]
