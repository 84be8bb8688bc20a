"""`logs`."""

from __future__ import annotations

import contextlib
import sys
import time

import click

from moorage.cli.app import App, connected
from moorage.find import find
from moorage.logs import Record
from moorage.times import parse_moment
from moorage_api.errors import InvalidArgument


@click.command()
@click.argument("container")
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the container ends.")
@click.option("-n", "--tail", default="all", show_default=True, help="Only so many of the last lines.")
@click.option("--since", default="", help="Only from a time on (RFC 3339, Unix seconds), or 10m ago.")
@click.option("--until", default="", help="Only up to a time.")
@click.option("-t", "--timestamps", is_flag=True, help="Show the time of each line.")
@connected()
async def logs(app: App, container: str, following: bool, tail: str, since: str, until: str, timestamps: bool) -> None:
    """Print what a container wrote."""
    handle = await find(app.client, container)
    count = _count(tail)
    start, end = (parse_moment(text, time.time_ns()) if text else 0 for text in (since, until))
    writer = _Writer(timestamps=timestamps)
    try:
        async with contextlib.aclosing(handle.logs(follow=following, tail=count, since=start)) as records:
            async for record in records:
                if end and record.nanoseconds > end:
                    break
                writer.write(record)
    finally:
        writer.flush()


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
