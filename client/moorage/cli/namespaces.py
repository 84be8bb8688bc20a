"""`ns`: namespaces."""

from __future__ import annotations

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.each import for_each
from moorage.cli.output import print_rows
from moorage_api.errors import InvalidArgument

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
    if app.quiet:
        for name in sorted(found):
            print(name)
        return
    rows = [
        {"Name": name, "Labels": ",".join(f"{key}={value}" for key, value in sorted(found[name].items()))}
        for name in sorted(found)
    ]
    print_rows(rows, _COLUMNS, app.format)


@ns.command("create")
@click.argument("name")
@click.argument("labels", nargs=-1, metavar="[KEY=VALUE...]")
@connected()
async def create(app: App, name: str, labels: tuple[str, ...]) -> None:
    """Make one. It is made anyway when something is first put into it."""
    pairs = [label.partition("=") for label in labels]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise InvalidArgument(f"invalid label {key!r}: expected KEY=VALUE")
    await app.client.namespaces.create(name, {key: value for key, _, value in pairs})
    print(name)


@ns.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@connected()
async def remove(app: App, names: tuple[str, ...]) -> int:
    """Remove empty ones."""
    return await for_each(app, names, app.client.namespaces.delete)
