"""`import`: an image from the tar of a root file system."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.error
import urllib.request
from collections.abc import AsyncIterator

import click

from moorage.cli.app import App, connected
from moorage.cli.archives import opened, reading
from moorage.cli.change import instructions_as_config
from moorage.cli.errors import CommandError
from moorage.image_config import resolve
from moorage.importing import import_rootfs
from moorage.stdio import Source
from moorage_api.oci.build import Change
from moorage_api.oci.platforms import parse_platform
from moorage_api.oci.reference import parse

_PIECE = 1 << 20
_URLS = ("http://", "https://")
_SECONDS = 60


@click.command("import")
@click.argument("source", metavar="FILE|URL|-")
@click.argument("reference", metavar="[REPOSITORY[:TAG]]", default="")
@click.option("-c", "--change", "instructions", multiple=True, help="CMD, ENTRYPOINT, ENV, LABEL, USER, WORKDIR.")
@click.option("-m", "--message", default="", help="What it is.")
@click.option("--platform", default="", help="os/architecture[/variant]; this machine's unless given.")
@connected()
async def import_(
    app: App, source: str, reference: str, instructions: tuple[str, ...], message: str, platform: str
) -> None:
    """Make an image of a root file system: a tar, plain or compressed."""
    name = parse(reference).canonical if reference else ""
    change = Change(
        created_by="", comment=message or f"Imported from {source}", config=instructions_as_config(instructions)
    )
    async with _given(source) as data:
        wanted = parse_platform(platform) if platform else None
        image = await import_rootfs(app.client, data, name, change, wanted)
    print((await resolve(app.client.content, image, wanted)).id)


@contextlib.asynccontextmanager
async def _given(source: str) -> AsyncIterator[Source]:
    if not source.startswith(_URLS):
        with opened("" if source == "-" else source) as fd:
            yield reading(fd)
        return
    try:
        response = await asyncio.to_thread(urllib.request.urlopen, source, timeout=_SECONDS)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read {source}: {getattr(error, 'reason', error)}") from None
    with response:

        async def read() -> bytes:
            data: bytes = await asyncio.to_thread(response.read, _PIECE)
            return data

        yield read
