"""`plugin`: for those who write plugins, and those who look after them."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from moorage.cli.app import App, connected, say
from moorage.cli.system import describe_plugin, plugins
from moorage.templates import KINDS, write_project
from moorage_api.errors import NotFound

ROOT = "/var/lib/moorage-plugins"


@click.group()
def plugin() -> None:
    """List, write and serve plugins."""


plugin.add_command(plugins, "ls")


@plugin.command()
@click.argument("names", nargs=-1, required=True, metavar="TYPE.ID...")
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def inspect(app: App, names: tuple[str, ...]) -> None:
    """Show all that is known of plugins of the daemon; an id alone is enough where it is the only one."""
    known = [describe_plugin(found) for found in await app.client.introspection.plugins()]
    chosen = []
    for name in names:
        fitting = [found for found in known if name in (found["URI"], found["ID"])]
        if not fitting:
            raise NotFound(f"no such plugin: {name}")
        chosen += fitting
    app.describe(chosen)


@plugin.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@click.option("--folder", default="", metavar="DIR", help="Where to write it [./NAME].")
def new(kind: str, name: str, folder: str) -> None:
    """Write a complete project for a new plugin, which passes its tests at once."""
    for path in write_project(kind, name, Path(folder or name)):
        click.echo(path)


@plugin.command()
@click.argument("name")
@click.option("--address", required=True, metavar="SOCK", help="Path of the Unix socket to serve on.")
@click.option("--root", default="", metavar="DIR", help=f"Its folder for what lasts [{ROOT}/NAME].")
@click.option("--state", default="", metavar="DIR", help="Its folder for what a reboot clears [ROOT/state].")
@click.option("--config", default="", metavar="FILE", help="TOML file with the keys of its table.")
@click.option("--content", default="", metavar="SOCK", help="For a differ: the socket of the daemon that calls it.")
def serve(name: str, address: str, root: str, state: str, config: str, content: str) -> None:
    """Serve the installed plugin NAME over containerd's gRPC.

    A snapshotter, content store or differ, for the proxy_plugins of a containerd or of another Moorage. Runs until
    SIGTERM or SIGINT.
    """
    from moorage_api import hosting
    from moorage_api.remote.server import Server

    registration = hosting.find(name)
    root_folder = Path(root or f"{ROOT}/{registration.id}")
    text = Path(config).read_text(encoding="utf-8") if config else ""
    instance, context = hosting.start(registration, root_folder, Path(state) if state else root_folder / "state", text)
    server = Server(instance, content=_content_at(content) if content else None)

    def stop(*_: Any) -> None:
        # Waiting is forbidden in a handler of the thread that waits.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    server.start(address)
    say(f"serving {registration.uri} on {address}")
    try:
        server.wait()
    except KeyboardInterrupt:
        say("stopping")
    finally:
        server.stop()
        context.stop()


def _content_at(address: str) -> Any:
    from moorage_api.remote.channel import Channel
    from moorage_api.remote.content import RemoteContentStore

    channel = Channel("content", address)
    return lambda namespace, lease: RemoteContentStore(channel.bound(namespace, lease))
