"""`inspect`: all that is known of a container or an image, as JSON with docker's keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import msgspec

from moorage.cli.app import App, connected
from moorage.cli.describe import describe_container
from moorage.cli.each import describe_each
from moorage.cli.references import familiar, repository
from moorage.container import ContainerHandle
from moorage.dangling import is_dangling
from moorage.find import find
from moorage.image_config import ResolvedImage
from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.images import Image


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--type", "kind", type=click.Choice(["container", "image"]), default=None, help="Only of this kind.")
@click.option("-s", "--size", is_flag=True, help="Also how much containers have written.")
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def inspect(app: App, names: tuple[str, ...], kind: str | None, size: bool) -> int:
    """Show all that is known of containers or images."""
    return await _show(app, names, kind, size=size)


def _of_one_kind(kind: str) -> click.Command:
    @click.command("inspect", help=f"Show all that is known of {kind}s.")
    @click.argument("names", nargs=-1, required=True, metavar="NAME...")
    @click.option("-s", "--size", is_flag=True, hidden=kind != "container", help="Also how much they have written.")
    @click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
    @connected()
    async def command(app: App, names: tuple[str, ...], size: bool) -> int:
        return await _show(app, names, kind, size=size)

    return command


container_inspect = _of_one_kind("container")
image_inspect = _of_one_kind("image")


async def _show(app: App, names: tuple[str, ...], kind: str | None, *, size: bool) -> int:
    return await describe_each(app, names, lambda name: _inspect(app, name, kind, size=size))


async def _inspect(app: App, name: str, kind: str | None, *, size: bool) -> dict[str, Any]:
    if kind != "image":
        try:
            handle = await find(app.client, name)
            found = await describe_container(app.client, handle)
            return {**found, **(await _sizes(app, handle) if size else {})}
        except NotFound:
            if kind == "container":
                raise
    try:
        found_image = await app.client.image(name)
        return _image(found_image, await _names(app, found_image.image))
    except (NotFound, InvalidArgument) as error:
        if kind == "image":
            raise
        raise NotFound(f"no such container or image: {name} (in the namespace {app.client.namespace!r})") from error


async def _sizes(app: App, handle: ContainerHandle) -> dict[str, int]:
    """What it has written, and what it sees in all, in bytes."""
    snapshots = app.client.snapshots(handle.record.snapshotter)
    key, sizes = handle.record.snapshot_key, []
    while key:
        sizes.append((await snapshots.usage(key)).size)
        key = (await snapshots.stat(key)).parent
    return {"SizeRw": sizes[0], "SizeRootFs": sum(sizes)} if sizes else {}


async def _names(app: App, image: Image) -> dict[str, list[str]]:
    """All names of an image, as docker has them."""
    same = await app.client.images.list(f'target.digest=="{image.target.digest}"')
    names = sorted(each.name for each in same if not is_dangling(each))
    digests = {f"{repository(name)}@{image.target.digest}" for name in names}
    return {"RepoTags": [familiar(name) for name in names if "@" not in name], "RepoDigests": sorted(digests)}


def _image(image: ResolvedImage, names: Mapping[str, list[str]]) -> dict[str, Any]:
    config = image.config
    return {
        "Id": image.id,
        **names,
        "Created": config.created,
        "Author": config.author,
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": sum(blob.size for blob in (image.manifest, image.config_descriptor, *image.layers)),
        "Config": msgspec.to_builtins(config.config),
        "RootFS": {"Type": "layers", "Layers": list(config.rootfs.diff_ids)},
        "Metadata": {"Labels": dict(image.image.labels)},
    }
