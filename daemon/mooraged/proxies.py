"""Plugins in other processes, as `[proxy_plugins.NAME]` of the configuration has them, as plugins among the others.

Starting one only makes a channel: whether its process is there is found out by each call, so that it may come after the
daemon, and go and come back meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moorage_api.errors import InvalidArgument
from moorage_api.oci.platforms import default_platform, parse_platform
from moorage_api.plugin import InitContext, Registration
from mooraged.config import Config
from mooraged.config.schema import PROXY_TYPES, ProxyPlugin, proxy_uri
from mooraged.graph import Plugin, State


def with_proxies(config: Config, found: Sequence[Registration]) -> tuple[list[Registration], list[str], list[Plugin]]:
    """The plugins `found` and those that the configuration adds; what is disabled; what was refused.

    One in another process takes the place of an installed one of its name that is disabled; beside one that is not, it
    is refused, since nobody could say which is meant.
    """
    added = {proxy_uri(name, proxy): _registration(name, proxy) for name, proxy in config.proxy_plugins.items()}
    installed = {registration.uri for registration in found}
    refused: list[Plugin] = []
    for uri in (added.keys() & installed) - set(config.disabled_plugins):
        reason = InvalidArgument(f"{uri} is installed: give the one in proxy_plugins another name, or disable this one")
        refused.append(Plugin(added[uri].type.value, f"{added[uri].id}-proxy", state=State.FAILED, error=reason))
        del added[uri]
    kept = [registration for registration in found if registration.uri not in added]
    disabled = [uri for uri in config.disabled_plugins if uri not in added]
    return [*kept, *added.values()], disabled, refused


def _registration(name: str, proxy: ProxyPlugin) -> Registration:
    return Registration(PROXY_TYPES[proxy.type], name, _starter(name, proxy))


def _starter(name: str, proxy: ProxyPlugin) -> Callable[[InitContext[None]], Any]:
    def start(context: InitContext[None]) -> Any:
        from moorage_api.remote.channel import Channel

        channel = Channel(name, proxy.address, timeout=proxy.timeout, namespace=proxy.namespace)
        context.on_stop(channel.close)
        context.exports.update({"address": proxy.address, **proxy.exports})
        context.capabilities.extend(proxy.capabilities)
        context.platforms.append(parse_platform(proxy.platform) if proxy.platform else default_platform())
        return _MAKERS[proxy.type](channel, name)

    return start


def _snapshotter(channel: Any, name: str) -> Any:
    from moorage_api.remote.snapshotter import RemoteSnapshotter

    return RemoteSnapshotter(channel, name)


def _content(channel: Any, _: str) -> Any:
    from moorage_api.remote.content import RemoteContentStore

    return RemoteContentStore(channel)


def _differ(channel: Any, _: str) -> Any:
    from moorage_api.remote.differ import RemoteDiffer

    return RemoteDiffer(channel)


_MAKERS = {"snapshot": _snapshotter, "content": _content, "diff": _differ}
