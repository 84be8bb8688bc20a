"""`ps`: the containers of the namespace."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from typing import Any

import click

from moorage import labels
from moorage.cli.app import App, connected, formatted
from moorage.cli.filters import filters, has_label, passes
from moorage.cli.output import shorten
from moorage.cli.pairs import joined
from moorage.cli.references import brief
from moorage.cli.units import human_duration, human_size, local_time
from moorage.network.attach import networks_of
from moorage.options import ContainerOptions, options_of
from moorage.state import State, state_of, uptime
from moorage.sweep import is_abandoned, sweep
from moorage_api import health
from moorage_api.containers import Container
from moorage_api.errors import InvalidArgument, MoorageError
from moorage_api.oci import spec as oci

_COLUMNS = {
    "CONTAINER ID": "ID",
    "IMAGE": "Image",
    "COMMAND": "Command",
    "CREATED": "RunningFor",
    "STATUS": "Status",
    "PORTS": "Ports",
    "NAMES": "Names",
}
_COMMAND_LENGTH = 20
_FILTERS = ("id", "name", "label", "status", "exited", "ancestor", "image", "health", "network", "volume")


@click.command()
@click.option("-a", "--all", is_flag=True, help="Also those that do not run.")
@click.option("-l", "--latest", is_flag=True, help="Only the newest, in any state.")
@click.option("-n", "--last", type=int, default=-1, help="Only the newest so many, in any state.")
@click.option("-f", "--filter", "texts", multiple=True, metavar="KEY=VALUE", help=f"{', '.join(_FILTERS)}.")
@click.option("-s", "--size", is_flag=True, help="Show what each has written into its file system.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten.")
@formatted
@connected()
async def ps(app: App, all: bool, latest: bool, last: int, texts: tuple[str, ...], size: bool, no_trunc: bool) -> None:
    """List containers."""
    records, processes = await asyncio.gather(app.client.containers.list(), app.client.tasks.list())
    tasks = {process.container_id: process for process in processes}
    abandoned = [record for record in records if is_abandoned(record, tasks.get(record.id))]
    await sweep(app.client, abandoned)
    found = [(record, state_of(record, tasks.get(record.id))) for record in records if record not in abandoned]
    found.sort(key=lambda pair: pair[0].created_at, reverse=True)
    count = 1 if latest else last
    wanted = filters(texts, _FILTERS)
    if not all and count < 0 and not {"status", "exited"} & set(wanted):
        found = [pair for pair in found if pair[1].running]
    found = [pair for pair in found if passes(wanted, functools.partial(_fits, *pair))]
    if count >= 0:
        found = found[:count]
    sizes = await asyncio.gather(*(_size(app, record) for record, _ in found)) if size else ["0B"] * len(found)
    rows = [
        {**_row(record, state, no_trunc=no_trunc), "Size": each}
        for (record, state), each in zip(found, sizes, strict=True)
    ]
    app.show(rows, {**_COLUMNS, "SIZE": "Size"} if size else _COLUMNS, "ID")


async def _size(app: App, record: Container) -> str:
    try:
        return human_size((await app.client.snapshots(record.snapshotter).usage(record.snapshot_key)).size)
    except MoorageError:
        # Another client's container, without a snapshot; or it is being removed.
        return "0B"


def _row(record: Container, state: State, *, no_trunc: bool) -> dict[str, Any]:
    """A container as the list shows it; the fields are docker's."""
    options = options_of(record)
    age = time.time() - record.created_at / 10**9
    command = _command(record)
    return {
        "ID": record.id if no_trunc or labels.NAME not in record.labels else record.id[:12],
        "Image": brief(record.image),
        "Command": json.dumps(command if no_trunc else shorten(command, _COMMAND_LENGTH), ensure_ascii=False),
        "CreatedAt": local_time(record.created_at),
        "RunningFor": f"{human_duration(age)} ago",
        "Status": status_text(state, health.condition_of(record)),
        "State": state.status,
        "Ports": ", ".join(map(str, options.publish)) if options and state.running else "",
        "Names": record.labels.get(labels.NAME, ""),
        "Labels": joined(record.labels),
        "LocalVolumes": str(len(options.volumes) if options else 0),
        "Mounts": ",".join(_mounted(options)) if options else "",
        "Networks": ",".join(networks_of(record)) or (options.network if options else ""),
    }


def _mounted(options: ContainerOptions) -> list[str]:
    return [*(volume.name for volume in options.volumes), *(bind.source for bind in options.binds)]


def status_text(state: State, condition: str = "") -> str:
    """`Up 3 minutes (healthy)`, `Exited (0) 5 seconds ago`, `Created`. `condition` is what its health check says."""
    match state.status:
        case "created":
            return "Created"
        case "exited":
            ago = human_duration(time.time() - state.exited_at / 10**9) if state.exited_at else ""
            return f"Exited ({state.exit_status})" + (f" {ago} ago" if ago else "")
    up = uptime(state.pid)
    text = f"Up {human_duration(up)}" if up is not None else "Up"
    if state.status == "paused":
        return f"{text} (Paused)"
    if condition:
        return f"{text} (health: starting)" if condition == health.STARTING else f"{text} ({condition})"
    return text


def _command(record: Container) -> str:
    try:
        args = oci.decode(record.spec)["process"]["args"]
    except (InvalidArgument, KeyError, TypeError):
        # Another client's container may have a specification of another kind.
        return ""
    # As docker shows it, for people to read: quotes around what holds spaces, whatever else it holds.
    return " ".join(f"'{word}'" if " " in str(word) else str(word) for word in args)


def _fits(record: Container, state: State, key: str, value: str) -> bool:
    match key:
        case "id":
            return record.id.startswith(value)
        case "name":
            return value in labels.name_of(record)
        case "status":
            return state.status == value
        case "health":
            return state.running and (health.condition_of(record) or "none") == value
        case "exited":
            return state.status == "exited" and str(state.exit_status) == value
        case "network":
            return value in networks_of(record)
        case "volume":
            options = options_of(record)
            return options is not None and value in _mounted(options)
        case "image" | "ancestor":
            return value in (record.image, brief(record.image))
        case _:
            return has_label(record.labels, value)
