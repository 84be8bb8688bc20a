"""Registration of the CRI plugin, and how its parts are put together."""

from __future__ import annotations

from collections.abc import Sequence

from moorage_api.core import Core
from moorage_api.plugin import InitContext, PluginType, Registration, SkipPlugin, hookimpl
from moorage_api.rpc import Service
from moorage_cri.background import Background
from moorage_cri.cdi.registry import DeviceRegistry
from moorage_cri.cni.cache import Cache
from moorage_cri.cni.config import ConfigFolder
from moorage_cri.cni.netns import NetworkNamespaces
from moorage_cri.cni.network import Network
from moorage_cri.cni.plugin import Plugins
from moorage_cri.config import Config
from moorage_cri.context import NAMESPACE, Cri
from moorage_cri.exits import Exits
from moorage_cri.image import follow
from moorage_cri.image.cache import ImageCache
from moorage_cri.nri.config import NriConfig
from moorage_cri.nri.domain import CriDomain
from moorage_cri.nri.listener import listen, remove
from moorage_cri.nri.registry import Registry
from moorage_cri.recovery import recover
from moorage_cri.service import services
from moorage_cri.streaming.server import StreamServer


def init(context: InitContext[Config]) -> Sequence[Service]:
    context.config.check()
    cri = assemble(context)
    streams = StreamServer(context.config)

    async def start() -> None:
        await recover(cri)
        await cri.nri.start(CriDomain(cri), context.daemon.version)
        await streams.start()
        cri.background.start("task events", Exits(cri).follow())
        cri.background.start("image events", follow.follow(cri))

    context.on_ready(start)
    context.on_stop(cri.background.stop)
    context.on_stop(cri.nri.stop)
    context.on_stop(streams.stop)
    return services(cri, streams)


def assemble(context: InitContext[Config]) -> Cri:
    """The plugin's state, empty as yet."""
    config = context.config
    core: Core = context.get(PluginType.INTERNAL, "core")
    k8s = core.namespaced(NAMESPACE)
    background = Background()
    network = Network(
        ConfigFolder(config.cni.conf_dir),
        Plugins(config.cni.bin_dirs, config.cni.timeout),
        Cache(context.root / "cni"),
        config.cni.ip_pref,
        background.start,
    )
    return Cri(
        config=config,
        core=core,
        k8s=k8s,
        root=context.root,
        state=context.state,
        network=network,
        namespaces=NetworkNamespaces(context.state / "netns"),
        images=ImageCache(k8s),
        background=background,
        cdi=DeviceRegistry(config.cdi_spec_dirs),
        nri=context.get_all(PluginType.NRI).get("nri") or Registry(),
    )


def init_nri(context: InitContext[NriConfig]) -> Registry:
    """The plugins of NRI; none as yet. `FailedPrecondition` and `Unavailable` for a socket that cannot be had."""
    config = context.config
    if config.disable:
        raise SkipPlugin("it is disabled in the configuration")
    if config.disable_connections:
        return Registry(config)
    listener = listen(config.socket_path)
    # Only now is it this daemon's to remove.
    context.on_stop(lambda: remove(config.socket_path))
    return Registry(config, listener)


@hookimpl
def moorage_register() -> Sequence[Registration]:
    return [
        Registration(
            PluginType.GRPC,
            "cri",
            init,
            requires=[f"{PluginType.INTERNAL.value}.core"],
            wants=[PluginType.NRI],
            config=Config,
            documentation="The Kubernetes Container Runtime Interface.",
        ),
        Registration(
            PluginType.NRI,
            "nri",
            init_nri,
            config=NriConfig,
            documentation="The Node Resource Interface: plugins that see and adjust pods and containers.",
        ),
    ]
