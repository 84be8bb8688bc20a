"""`inspect`: all that is known of a container or an image, as JSON with docker's keys."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from moorage.cli.app import App, connected
from moorage.cli.describe import describe_container
from moorage.cli.each import describe_each
from moorage.find import find
from moorage.image_config import ResolvedImage
from moorage_api.errors import InvalidArgument, NotFound


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--type", "kind", type=click.Choice(["container", "image"]), default=None, help="Only of this kind.")
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def inspect(app: App, names: tuple[str, ...], kind: str | None) -> int:
    """Show all that is known of containers or images."""
    return await _show(app, names, kind)


def _of_one_kind(kind: str) -> click.Command:
    @click.command("inspect", help=f"Show all that is known of {kind}s.")
    @click.argument("names", nargs=-1, required=True, metavar="NAME...")
    @click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
    @connected()
    async def command(app: App, names: tuple[str, ...]) -> int:
        return await _show(app, names, kind)

    return command


container_inspect = _of_one_kind("container")
image_inspect = _of_one_kind("image")


async def _show(app: App, names: tuple[str, ...], kind: str | None) -> int:
    return await describe_each(app, names, lambda name: _inspect(app, name, kind))


async def _inspect(app: App, name: str, kind: str | None) -> dict[str, Any]:
    if kind != "image":
        try:
            return await describe_container(app.client, await find(app.client, name))
        except NotFound:
            if kind == "container":
                raise
    try:
        return _image(await app.client.image(name))
    except (NotFound, InvalidArgument) as error:
        if kind == "image":
            raise
        raise NotFound(f"no such container or image: {name} (in the namespace {app.client.namespace!r})") from error


def _image(image: ResolvedImage) -> dict[str, Any]:
    config = image.config
    return {
        "Id": image.id,
        "RepoTags": [image.image.name],
        "RepoDigests": [f"{image.image.name.partition('@')[0].rpartition(':')[0]}@{image.image.target.digest}"],
        "Created": config.created,
        "Author": config.author,
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": sum(blob.size for blob in (image.manifest, image.config_descriptor, *image.layers)),
        "Config": msgspec.to_builtins(config.config),
        "RootFS": {"Type": "layers", "Layers": list(config.rootfs.diff_ids)},
        "Metadata": {"Labels": dict(image.image.labels)},
    }
