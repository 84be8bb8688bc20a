"""`lease`: what keeps things from being collected."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.each import describe_each, for_each
from moorage.cli.pairs import joined, pairs
from moorage.cli.units import rfc3339
from moorage.times import parse_duration
from moorage_api.errors import NotFound
from moorage_api.leases import Lease

_COLUMNS = {"LEASE ID": "ID", "CREATED": "CreatedAt", "LABELS": "Labels"}
_EXPIRE = "containerd.io/gc.expire"


@click.group()
def lease() -> None:
    """Leases: what they hold is not collected."""


@lease.command("ls")
@click.option("-f", "--filter", "filters", multiple=True, help="A filter of containerd's, as id==ID.")
@formatted
@connected()
async def list_leases(app: App, filters: tuple[str, ...]) -> None:
    """List leases."""
    rows = [{**_row(found), "Labels": joined(found.labels)} for found in await app.client.leases.list(*filters)]
    app.show(rows, _COLUMNS, "ID")


def _row(found: Lease) -> dict[str, Any]:
    return {"ID": found.id, "CreatedAt": rfc3339(found.created_at)}


@lease.command("create")
@click.argument("id", default="")
@click.option("--expires", default="", metavar="DURATION", help="It ends by itself after so long; never unless given.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Add a label.")
@connected()
async def create(app: App, id: str, expires: str, labels: tuple[str, ...]) -> None:
    """Make a lease, and print its id."""
    found = pairs(labels)
    if expires:
        end = dt.datetime.now(dt.UTC) + dt.timedelta(microseconds=parse_duration(expires) / 1000)
        found[_EXPIRE] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
    print((await app.client.leases.create(id or uuid.uuid4().hex, found)).id)


@lease.command("inspect")
@click.argument("ids", nargs=-1, required=True, metavar="LEASE...")
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def inspect(app: App, ids: tuple[str, ...]) -> int:
    """Show leases with what they hold."""
    known = {found.id: found for found in await app.client.leases.list()}

    async def one(id: str) -> dict[str, Any]:
        if id not in known:
            raise NotFound(f"no such lease: {id}")
        held = [{"ID": resource.id, "Type": resource.type} for resource in await app.client.leases.resources(id)]
        return {**_row(known[id]), "Labels": dict(known[id].labels), "Resources": held}

    return await describe_each(app, ids, one)


@lease.command("rm")
@click.argument("ids", nargs=-1, required=True, metavar="LEASE...")
@click.option("--sync", is_flag=True, help="Return when what it alone held has been collected.")
@click.option("-f", "--force", is_flag=True, help="No error where one is not there.")
@connected()
async def remove(app: App, ids: tuple[str, ...], sync: bool, force: bool) -> int:
    """End leases."""
    return await for_each(app, ids, lambda id: app.client.leases.delete(id, sync=sync), missing_ok=force)
