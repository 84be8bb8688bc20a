"""`events`: what happens, as docker tells it."""

from __future__ import annotations

import contextlib
import json
import time

import click

from moorage.cli.app import App, connected
from moorage.cli.filters import filters, passes
from moorage.cli.occurrences import FILTERS, Observer, Occurrence
from moorage.cli.template import Template
from moorage.times import parse_moment
from moorage_api.errors import InvalidArgument


@click.command()
@click.option(
    "-f",
    "--filter",
    "texts",
    multiple=True,
    metavar="KEY=VALUE",
    help=f"{', '.join(FILTERS)}, or a filter of containerd's.",
)
@click.option("--since", default="", help="Also what is kept since a time (RFC 3339, Unix seconds), or 10m ago.")
@click.option("--until", default="", help="Only up to a time.")
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="The events of every namespace.")
@click.option("--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def events(app: App, texts: tuple[str, ...], since: str, until: str, everywhere: bool) -> None:
    """Show what happens, until interrupted."""
    of_docker = [text for text in texts if text.partition("=")[0] in FILTERS]
    of_containerd = [text for text in texts if text not in of_docker]
    for text in of_containerd:
        _check(text)
    wanted = filters(of_docker, FILTERS)
    now = time.time_ns()
    start, end = (parse_moment(text, now) if text else None for text in (since, until))
    template = Template(app.format) if app.format not in ("", "table", "json") else None
    observer = Observer(app.client)
    await observer.begin(start, everywhere=everywhere)
    happening = app.client.events.subscribe(*of_containerd, since=start, until=end, everywhere=everywhere)
    async with contextlib.aclosing(happening) as envelopes:
        async for envelope in envelopes:
            occurrence = await observer.observe(envelope)
            if passes(wanted, occurrence.fits):
                print(_shown(occurrence, app.format, template, everywhere=everywhere), flush=True)


def _check(text: str) -> None:
    """`InvalidArgument` for what is neither docker's nor containerd's."""
    if not any(operator in text for operator in ("==", "!=", "~=")):
        keys = ", ".join(f"{key}=" for key in FILTERS)
        raise InvalidArgument(f"invalid filter {text!r}: expected {keys}, or one of containerd's, as topic~=^/tasks")


def _shown(occurrence: Occurrence, format: str, template: Template | None, *, everywhere: bool) -> str:
    if template is not None:
        return template.render(occurrence.row())
    if format == "json":
        return json.dumps(occurrence.document(), ensure_ascii=False)
    return occurrence.line(everywhere=everywhere)
