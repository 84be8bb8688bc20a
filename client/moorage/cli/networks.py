"""`network`: networks of containers."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from typing import Any

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.each import confirmed, describe_each, for_each
from moorage.cli.filters import Pruned, filters, named_and_labelled, prune_filter, pruned
from moorage.cli.pairs import joined, pairs
from moorage.find import find
from moorage.network import connect as connecting
from moorage.network import masquerade
from moorage.network.attach import networks_of
from moorage.network.definitions import BUILT_IN, Network, Networks
from moorage.network.plan import Attached, Link, Records
from moorage.times import parse_time
from moorage_api.errors import FailedPrecondition

_COLUMNS = {"NETWORK ID": "ID", "NAME": "Name", "DRIVER": "Driver", "SCOPE": "Scope"}


@click.group()
def network() -> None:
    """Networks: what containers reach one another by."""


async def _networks(app: App) -> Networks:
    place = (await app.client.defaults()).networks
    if place is None:
        raise FailedPrecondition("this daemon keeps no networks")
    return Networks(place, app.client.namespace)


@network.command("ls")
@click.option("--no-trunc", is_flag=True, help="Do not shorten ids.")
@click.option("-f", "--filter", "texts", multiple=True, metavar="KEY=VALUE", help="name, label, driver.")
@formatted
@connected()
async def list_networks(app: App, no_trunc: bool, texts: tuple[str, ...]) -> None:
    """List networks."""
    wanted = filters(texts, ("name", "label", "driver"))
    rows = [
        {
            "ID": found.id if no_trunc else found.id[:12],
            "Name": found.name,
            "Driver": found.driver,
            "Scope": "local",
            "Internal": found.internal,
            "CreatedAt": found.created,
            "Labels": joined(found.labels),
        }
        for found in (await _networks(app)).list()
        if named_and_labelled(found.name, found.labels, wanted) and found.driver in wanted.get("driver", [found.driver])
    ]
    app.show(rows, _COLUMNS, "ID")


@network.command("create")
@click.argument("name")
@click.option("-d", "--driver", type=click.Choice(["bridge"]), default="bridge", help="How it is made.")
@click.option("--subnet", default="", metavar="PREFIX", help="As 10.1.2.0/24; a free one unless given.")
@click.option("--gateway", default="", metavar="ADDRESS", help="The host's address in it; the first unless given.")
@click.option("--internal", is_flag=True, help="No way out of it.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Add a label.")
@connected()
async def create(
    app: App, name: str, driver: str, subnet: str, gateway: str, internal: bool, labels: tuple[str, ...]
) -> None:
    """Make a network: a bridge of its own, where containers find one another by name."""
    networks = await _networks(app)
    made = networks.create(name, subnet=subnet, gateway=gateway, internal=internal, labels=pairs(labels))
    print(made.id)


@network.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
@click.option("-f", "--force", is_flag=True, help="No error where one is not there.")
@connected()
async def remove(app: App, names: tuple[str, ...], force: bool) -> int:
    """Remove networks that no container uses."""
    networks = await _networks(app)

    async def one(name: str) -> None:
        found = networks.get(name)
        users = await _users(app, found.name)
        if users:
            raise FailedPrecondition(f"network {found.name} is used by {', '.join(users)}: remove the containers first")
        await _remove(networks, found)

    return await for_each(app, names, one, missing_ok=force)


@network.command("prune")
@prune_filter
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@connected()
async def prune(app: App, force: bool, texts: tuple[str, ...]) -> None:
    """Remove all networks that no container uses."""
    fits = pruned(texts)
    if confirmed("This will remove all networks that no container uses. Go on?", force=force):
        await prune_networks(app, fits)


async def prune_networks(app: App, fits: Pruned) -> None:
    """Remove what no container uses, and print the names."""
    networks = await _networks(app)
    for found in networks.list():
        if found.name in BUILT_IN or not fits(parse_time(found.created), found.labels):
            continue
        if not await _users(app, found.name):
            await _remove(networks, found)
            print(found.name)


@network.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def inspect(app: App, names: tuple[str, ...]) -> int:
    """Show all that is known of networks."""
    networks = await _networks(app)
    attached = Records(networks.place.state).list()

    async def one(name: str) -> dict[str, Any]:
        return _shown(networks.get(name), attached, app.client.namespace)

    return await describe_each(app, names, one)


def _shown(found: Network, attached: list[Attached], namespace: str) -> dict[str, Any]:
    return {
        "Name": found.name,
        "Id": found.id,
        "Created": found.created,
        "Scope": "local",
        "Driver": found.driver,
        "EnableIPv6": False,
        "IPAM": {"Driver": "host-local", "Config": _ranges(found)},
        "Internal": found.internal,
        "Containers": {
            entry.plan.id: _member(entry, link, found)
            for entry in attached
            if entry.plan.namespace == namespace and (link := entry.link(found.name)) is not None
        },
        "Options": {"bridge": found.bridge},
        "Labels": dict(found.labels),
    }


def _ranges(found: Network) -> list[dict[str, str]]:
    return [{"Subnet": found.subnet, "Gateway": found.gateway}] if found.subnet else []


def _member(entry: Attached, link: Link, found: Network) -> dict[str, str]:
    return {
        "Name": entry.plan.name,
        "EndpointID": "",
        "MacAddress": link.mac,
        "IPv4Address": f"{link.address}/{found.subnet.split('/')[1]}",
        "IPv6Address": "",
    }


async def _users(app: App, name: str) -> list[str]:
    """The short ids of the containers that are in a network when they run."""
    records = await app.client.containers.list()
    return [record.id[:12] for record in records if name in networks_of(record)]


@network.command("connect")
@click.argument("name", metavar="NETWORK")
@click.argument("container")
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="One more name for it there.")
@click.option("--ip", default="", metavar="ADDRESS", help="Its address there; a free one unless given.")
@connected()
async def connect(app: App, name: str, container: str, aliases: tuple[str, ...], ip: str) -> None:
    """Put a container into one more network, at once where it runs."""
    networks, handle = await _networks(app), await find(app.client, container)
    pid = (await handle.state()).pid
    await asyncio.to_thread(connecting.connect, networks, handle.record, pid, name, aliases, ip)


@network.command("disconnect")
@click.argument("name", metavar="NETWORK")
@click.argument("container")
@click.option("-f", "--force", is_flag=True, hidden=True, help="docker's; nothing else is needed.")
@connected()
async def disconnect(app: App, name: str, container: str, force: bool) -> None:
    """Take a container out of a network, at once where it runs."""
    networks, handle = await _networks(app), await find(app.client, container)
    pid = (await handle.state()).pid
    await asyncio.to_thread(connecting.disconnect, networks, handle.record, pid, name)


async def _remove(networks: Networks, found: Network) -> None:
    networks.remove(found)
    if not found.internal:
        await asyncio.to_thread(masquerade.remove, found.bridge, found.subnet)
    command = ["ip", "link", "delete", found.bridge]
    # A network that no container ever used has no bridge.
    with contextlib.suppress(FileNotFoundError):
        await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True)
