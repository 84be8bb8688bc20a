"""`ns`: namespaces."""

from __future__ import annotations

from typing import Any

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.each import describe_each, for_each
from moorage.cli.pairs import joined, pairs
from moorage_api.errors import NotFound

_COLUMNS = {"NAME": "Name", "LABELS": "Labels"}


@click.group()
def ns() -> None:
    """Namespaces: each client's own world."""


@ns.command("ls")
@formatted
@connected()
async def list_namespaces(app: App) -> None:
    """List them, with their labels."""
    found = await app.client.namespaces.list()
    rows = [{"Name": name, "Labels": joined(found[name])} for name in sorted(found)]
    app.show(rows, _COLUMNS, "Name")


@ns.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def inspect(app: App, names: tuple[str, ...]) -> int:
    """Show their labels."""
    found = await app.client.namespaces.list()

    async def one(name: str) -> dict[str, Any]:
        if name not in found:
            raise NotFound(f"no such namespace: {name}")
        return {"Name": name, "Labels": found[name]}

    return await describe_each(app, names, one)


@ns.command("create")
@click.argument("name")
@click.argument("labels", nargs=-1, metavar="[KEY=VALUE...]")
@connected()
async def create(app: App, name: str, labels: tuple[str, ...]) -> None:
    """Make one. It is made anyway when something is first put into it."""
    await app.client.namespaces.create(name, pairs(labels))
    print(name)


@ns.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@connected()
async def remove(app: App, names: tuple[str, ...]) -> int:
    """Remove empty ones."""
    return await for_each(app, names, app.client.namespaces.delete)
