"""`tag` and `history`."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.output import shorten
from moorage.cli.units import human_duration, human_size
from moorage.dangling import is_dangling
from moorage.find import find_images
from moorage_api.errors import AlreadyExists
from moorage_api.oci.reference import parse

_COLUMNS = {
    "IMAGE": "ID",
    "CREATED": "CreatedSince",
    "CREATED BY": "CreatedBy",
    "SIZE": "Size",
    "COMMENT": "Comment",
}
_COMMAND_LENGTH = 45


@click.command()
@click.argument("source")
@click.argument("target")
@connected()
async def tag(app: App, source: str, target: str) -> None:
    """Give an image a name, or one more; an image that has the name loses it."""
    image = (await find_images(app.client, source))[0]
    named = replace(image, name=parse(target).canonical)
    try:
        await app.client.images.create(named)
    except AlreadyExists:
        await app.client.images.update(named, ["target", "labels"])
    if is_dangling(image):
        await app.client.images.delete(image.name)


@click.command()
@click.argument("image")
@click.option("--no-trunc", is_flag=True, help="Do not shorten.")
@click.option("-H", "--human/--no-human", default=True, help="Sizes and times for people.")
@formatted
@connected()
async def history(app: App, image: str, no_trunc: bool, human: bool) -> None:
    """Show how an image was made, the last step first."""
    found = await app.client.image(image)
    size_of = human_size if human else str
    layers = list(found.layers)
    rows = []
    for step in found.config.history:
        size = 0 if step.empty_layer or not layers else layers.pop(0).size
        by = step.created_by
        rows.append(
            {
                "ID": "<missing>",
                "CreatedSince": _since(step.created) if human else step.created,
                "CreatedAt": step.created,
                "CreatedBy": by if no_trunc else shorten(by, _COMMAND_LENGTH),
                "Size": size_of(size),
                "Comment": step.comment,
            }
        )
    # Layers that no step speaks of: the image's maker kept no history.
    steps_missing = {"ID": "<missing>", "CreatedSince": "N/A", "CreatedAt": "", "CreatedBy": "", "Comment": ""}
    rows += [{**steps_missing, "Size": size_of(layer.size)} for layer in layers]
    rows.reverse()
    if rows:
        rows[0]["ID"] = found.id if no_trunc else found.id.partition(":")[2][:12]
    app.show(rows, _COLUMNS, "ID")


def _since(created: str) -> str:
    try:
        age = time.time() - dt.datetime.fromisoformat(created).timestamp()
    except ValueError:
        return "N/A"
    return f"{human_duration(age)} ago"
