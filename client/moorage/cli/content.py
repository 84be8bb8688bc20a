"""`content`: blobs by digest, and what becomes one."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.each import describe_each, for_each
from moorage.cli.pairs import joined
from moorage.cli.units import human_duration, human_size, rfc3339
from moorage_api.content import Info

_COLUMNS = {"DIGEST": "Digest", "SIZE": "Size", "AGE": "Age"}
_INGESTS = {"REF": "Ref", "SIZE": "Size", "AGE": "Age"}


@click.group()
def content() -> None:
    """Content: blobs by digest, and what becomes one."""


@content.command("ls")
@click.option("-f", "--filter", "filters", multiple=True, help="A filter of containerd's, as labels.KEY==VALUE.")
@formatted
@connected()
async def list_content(app: App, filters: tuple[str, ...]) -> None:
    """List blobs."""
    app.show([_row(info) for info in await app.client.content.list(*filters)], _COLUMNS, "Digest")


def _row(info: Info) -> dict[str, Any]:
    return {
        "Digest": info.digest,
        "Size": human_size(info.size),
        "Age": human_duration(time.time() - info.created_at / 10**9),
        "Labels": joined(info.labels),
    }


@content.command("active")
@formatted
@connected()
async def active(app: App) -> None:
    """List what is being written."""
    rows = [
        {
            "Ref": ingest.ref,
            "Size": human_size(ingest.offset),
            "Total": ingest.total,
            "Age": human_duration(time.time() - ingest.started_at / 10**9),
        }
        for ingest in await app.client.content.ingests()
    ]
    app.show(rows, _INGESTS, "Ref")


@content.command("abort")
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@connected()
async def abort(app: App, refs: tuple[str, ...]) -> int:
    """Give up what is being written."""
    return await for_each(app, refs, app.client.content.abort)


@content.command("inspect")
@click.argument("digests", nargs=-1, required=True, metavar="DIGEST...")
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def inspect(app: App, digests: tuple[str, ...]) -> int:
    """Show all that is known of blobs."""

    async def one(digest: str) -> dict[str, Any]:
        info = await app.client.content.info(digest)
        return {
            "Digest": info.digest,
            "Size": info.size,
            "Created": rfc3339(info.created_at),
            "Updated": rfc3339(info.updated_at),
            "Labels": dict(info.labels),
        }

    return await describe_each(app, digests, one)


@content.command("cat")
@click.argument("digest")
@connected()
async def cat(app: App, digest: str) -> None:
    """Write a blob to standard output."""
    async for piece in app.client.content.read(digest):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


@content.command("rm")
@click.argument("digests", nargs=-1, required=True, metavar="DIGEST...")
@click.option("-f", "--force", is_flag=True, help="No error where one is not there.")
@connected()
async def remove(app: App, digests: tuple[str, ...], force: bool) -> int:
    """Remove blobs, whatever refers to them."""
    return await for_each(app, digests, app.client.content.delete, missing_ok=force)
