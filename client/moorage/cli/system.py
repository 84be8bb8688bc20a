"""`version`, `info`, `plugins`, `events`."""

from __future__ import annotations

import asyncio
import json
from importlib import metadata
from typing import Any

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.output import print_object, print_rows
from moorage.cli.units import rfc3339
from moorage.events import decode_event
from moorage.introspection import Plugin
from moorage_api.events import Envelope

_PLUGIN_COLUMNS = {"TYPE": "Type", "ID": "ID", "STATUS": "Status", "REASON": "Error"}


@click.command()
@click.option("--format", default="", metavar="FORMAT", help="json, or a Go template.")
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
@click.option("--format", default="", metavar="FORMAT", help="json, or a Go template.")
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


@click.command()
@click.option("-f", "--filter", "filters", multiple=True, help="A filter of containerd's, as topic~=^/tasks.")
@click.option("-A", "--all-namespaces", is_flag=True, help="The events of every namespace.")
@click.option("--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def events(app: App, filters: tuple[str, ...], all_namespaces: bool) -> None:
    """Show what happens, until interrupted."""
    own = "" if all_namespaces else f"namespace=={app.client.namespace}"
    wanted = [",".join(part for part in (own, filter) if part) for filter in filters or ("",)]
    async for envelope in app.client.events.subscribe(*(filter for filter in wanted if filter)):
        _print_event(envelope, app.format)


def _print_event(envelope: Envelope, format: str) -> None:
    fields = decode_event(envelope.event)
    if format in ("", "table"):
        text = json.dumps(fields, ensure_ascii=False)
        print(f"{rfc3339(envelope.timestamp)} {envelope.namespace} {envelope.topic} {text}", flush=True)
        return
    row = {
        "Time": rfc3339(envelope.timestamp),
        "Namespace": envelope.namespace,
        "Topic": envelope.topic,
        "Event": fields,
    }
    print_rows([row], {}, format)
    print(end="", flush=True)
