"""`logs`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

import click

from moorage.cli.app import App, connected
from moorage.cli.errors import CommandError
from moorage.container import ContainerHandle
from moorage.find import find
from moorage.logs import Record, follow, read
from moorage.times import parse_moment
from moorage_api.errors import InvalidArgument, NotFound


@click.command()
@click.argument("container")
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the container ends.")
@click.option("-n", "--tail", default="all", show_default=True, help="Only so many of the last lines.")
@click.option("--since", default="", help="Only from a time on (RFC 3339, Unix seconds), or 10m ago.")
@click.option("-t", "--timestamps", is_flag=True, help="Show the time of each line.")
@connected()
async def logs(app: App, container: str, following: bool, tail: str, since: str, timestamps: bool) -> None:
    """Print what a container wrote while it ran detached."""
    handle = await find(app.client, container)
    if not handle.log_path:
        raise CommandError(f"container {handle.name} keeps no log: it was made where the daemon offers none")
    count = _count(tail)
    start = parse_moment(since, time.time_ns()) if since else 0
    writer = _Writer(timestamps=timestamps)
    try:
        if following:
            async for record in _followed(handle, count, start):
                writer.write(record)
        else:
            for record in read(handle.log_path, tail=count, since=start):
                writer.write(record)
    except NotFound:
        # It never ran detached: there is nothing to show, which is no error.
        return
    finally:
        writer.flush()


async def _followed(container: ContainerHandle, tail: int | None, since: int) -> AsyncIterator[Record]:
    ended = asyncio.Event()
    watching = asyncio.create_task(_watch(container, ended), name="moorage wait")
    try:
        async for record in follow(container.log_path, ended, tail=tail, since=since):
            yield record
        if watching.done():
            watching.result()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(container: ContainerHandle, ended: asyncio.Event) -> None:
    try:
        if (await container.state()).running:
            await container.wait()
    except NotFound:
        # Removed meanwhile: ended, too.
        pass
    finally:
        ended.set()


class _Writer:
    """Writes records to standard output and standard error as the container wrote them."""

    def __init__(self, *, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._outputs = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
        self._begun = dict.fromkeys(self._outputs, False)

    def write(self, record: Record) -> None:
        output = self._outputs[record.stream]
        if self._timestamps and not self._begun[record.stream]:
            output.write(record.time.encode() + b" ")
        output.write(record.output)
        self._begun[record.stream] = record.partial
        # At the end of what is there now, whoever reads this must have it.
        output.flush()

    def flush(self) -> None:
        for output in self._outputs.values():
            output.flush()


def _count(tail: str) -> int | None:
    if tail == "all":
        return None
    try:
        count = int(tail)
    except ValueError:
        raise InvalidArgument(f"invalid number of lines {tail!r}: expected a number, or all") from None
    return count if count >= 0 else None
