"""`version`, `info`, `plugins`."""

from __future__ import annotations

import asyncio
from importlib import metadata
from typing import Any

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.output import print_object
from moorage.introspection import Plugin

_PLUGIN_COLUMNS = {"TYPE": "Type", "ID": "ID", "STATUS": "Status", "REASON": "Error"}


@click.command()
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def version(app: App) -> None:
    """Show the versions of this client and of the daemon."""
    daemon = await app.client.introspection.version()
    client = metadata.version("moorage")
    if app.format:
        print_object({"Client": {"Version": client}, "Server": _version(daemon.version, daemon.revision)}, app.format)
        return
    print(f"Client:\n Version:    {client}\n\nServer:\n Version:    {daemon.version}\n Revision:   {daemon.revision}")


def _version(version: str, revision: str) -> dict[str, str]:
    return {"Version": version, "Revision": revision}


@click.command()
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def info(app: App) -> None:
    """Show what the daemon is, and what the namespace holds."""
    client = app.client
    daemon, server, defaults, containers, tasks, images = await asyncio.gather(
        client.introspection.version(),
        client.introspection.server(),
        client.defaults(),
        client.containers.list(),
        client.tasks.list(),
        client.images.list(),
    )
    running = sum(task.status.name == "RUNNING" for task in tasks)
    shown: dict[str, Any] = {
        "Address": client.address,
        "Namespace": client.namespace,
        "ServerVersion": daemon.version,
        "ServerUUID": server.uuid,
        "ServerPid": server.pid,
        "Snapshotter": defaults.snapshotter,
        "Logs": defaults.logs,
        "Containers": len(containers),
        "ContainersRunning": running,
        "Images": len(images),
    }
    if app.format:
        print_object(shown, app.format)
        return
    for key, value in shown.items():
        print(f"{key}: {value}")


@click.command()
@click.argument("filters", nargs=-1, metavar="[FILTER...]")
@formatted
@connected()
async def plugins(app: App, filters: tuple[str, ...]) -> None:
    """List the daemon's plugins, and why those that did not start did not."""
    found = sorted(await app.client.introspection.plugins(*filters), key=lambda plugin: (plugin.type, plugin.id))
    app.show([describe_plugin(plugin) for plugin in found], _PLUGIN_COLUMNS, "URI")


def describe_plugin(plugin: Plugin) -> dict[str, Any]:
    """All that is known of a plugin."""
    return {
        "URI": f"{plugin.type}.{plugin.id}",
        "Type": plugin.type,
        "ID": plugin.id,
        "Status": plugin.status,
        "Error": plugin.error.message.replace("\n", " ") if plugin.error else "",
        "Requires": list(plugin.requires),
        "Exports": dict(plugin.exports),
        "Capabilities": list(plugin.capabilities),
    }
