"""`system df`, `gc`: what lies on disk, who owns it, and what goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.output import print_rows
from moorage.cli.units import human_size
from moorage.client import Client
from moorage.state import state_of
from moorage_api.garbage import Collected, Holding, Keeper

_SUMMARY = {"TYPE": "Type", "TOTAL": "TotalCount", "ACTIVE": "Active", "SIZE": "Size", "RECLAIMABLE": "Reclaimable"}
_OWNERS = {
    "TYPE": "Type",
    "NAMESPACE": "Namespace",
    "NAME": "Name",
    "SIZE": "Size",
    "SHARED": "Shared",
    "UNIQUE": "Unique",
}
_DOOMED = {"NAMESPACE": "Namespace", "TYPE": "Type", "NAME": "Name", "SIZE": "Size", "WHY": "Why"}
_CONTAINERS = ("container", "sandbox")


@click.command("df")
@click.option("-v", "--verbose", is_flag=True, help="Who owns each byte: every image, container and lease.")
@click.option("-A", "--all-namespaces", is_flag=True, help="What all namespaces have, and what none has.")
@click.option("--format", default="", metavar="FORMAT", help="table, json, or a Go template.")
@connected()
async def df(app: App, verbose: bool, all_namespaces: bool) -> None:
    """Show what images, containers and volumes take on disk."""
    holdings = await app.client.garbage.holdings(all_namespaces=all_namespaces)
    if verbose:
        print_rows(_owners(holdings), _OWNERS, app.format)
        return
    names = list(await app.client.namespaces.list()) if all_namespaces else [app.client.namespace]
    spaces = [app.client.in_namespace(name) for name in names]
    use = await _in_use(spaces)
    rows = [
        _kept_row("Images", holdings, ("image",), use.images, use),
        _kept_row("Containers", holdings, _CONTAINERS, use.running, use),
        await _volumes_row(app, spaces),
        _kept_row("Leases", holdings, ("lease", "content", "snapshot", "ingest"), None, use),
        _garbage_row(holdings),
    ]
    print_rows(rows, _SUMMARY, app.format)


@dataclass
class _Use:
    """Who is in use: images that containers are made from, under all their names, and containers that run. `all` counts
    records by kind, those without anything on disk too."""

    images: set[Keeper] = field(default_factory=set)
    running: set[Keeper] = field(default_factory=set)
    all: dict[str, set[Keeper]] = field(default_factory=dict)


async def _in_use(spaces: Sequence[Client]) -> _Use:
    use = _Use(all={"image": set(), "container": set()})
    for space in spaces:
        containers, tasks, images = await asyncio.gather(
            space.containers.list(), space.tasks.list(), space.images.list()
        )
        processes = {process.container_id: process for process in tasks}
        names = {record.image for record in containers}
        targets = {image.target.digest for image in images if image.name in names}
        for image in images:
            keeper = Keeper("image", space.namespace, image.name)
            use.all["image"].add(keeper)
            if image.target.digest in targets:
                use.images.add(keeper)
        for record in containers:
            keeper = Keeper("container", space.namespace, record.id)
            use.all["container"].add(keeper)
            if state_of(record, processes.get(record.id)).running:
                use.running.add(keeper)
    return use


def _class_of(holding: Holding) -> str:
    """To which row something belongs: each to one, so that the rows add up."""
    kinds = {keeper.kind for keeper in holding.keepers}
    if "image" in kinds:
        return "Images"
    if kinds.intersection(_CONTAINERS):
        return "Containers"
    return "Leases" if kinds else "Garbage"


def _kept_row(
    title: str, holdings: Iterable[Holding], kinds: Sequence[str], active: set[Keeper] | None, use: _Use
) -> dict[str, str]:
    """A row of what is kept by `kinds`. What nobody active keeps may be had back; None: nothing may."""
    mine = [holding for holding in holdings if _class_of(holding) == title]
    keepers = {keeper for holding in holdings for keeper in holding.keepers if keeper.kind in kinds}
    keepers = keepers.union(*(use.all.get(kind, set()) for kind in kinds))
    busy = (active if active is not None else keepers) | use.running
    free = sum(holding.size for holding in mine if busy.isdisjoint(holding.keepers))
    return _row(title, len(keepers), len(keepers & busy), sum(holding.size for holding in mine), free)


def _garbage_row(holdings: Iterable[Holding]) -> dict[str, str]:
    sizes = [holding.size for holding in holdings if not holding.keepers]
    return _row("Garbage", len(sizes), 0, sum(sizes), sum(sizes))


async def _volumes_row(app: App, spaces: Sequence[Client]) -> dict[str, str]:
    from moorage.cli.volumes import volume_users
    from moorage.volumes import Volumes
    from moorage_api.linux.tree import disk_usage

    root = (await app.client.defaults()).volumes
    count = active = size = free = 0
    for space in spaces if root else ():
        for volume in Volumes(root, space.namespace).list():
            used = bool(await volume_users(App(space, app.settings), volume.name))
            taken = disk_usage(volume.path)[0]
            count, active, size, free = count + 1, active + used, size + taken, free + (0 if used else taken)
    return _row("Local Volumes", count, active, size, free)


def _row(kind: str, total: int, active: int, size: int, free: int) -> dict[str, str]:
    share = f" ({100 * free // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human_size(size),
        "Reclaimable": f"{human_size(free)}{share}",
    }


def _owners(holdings: Sequence[Holding]) -> list[dict[str, Any]]:
    """A row for each owner, the largest first; then garbage, then all of it, each byte counted once."""
    sizes: dict[Keeper, int] = {}
    unique: dict[Keeper, int] = {}
    for holding in holdings:
        for keeper in holding.keepers:
            sizes[keeper] = sizes.get(keeper, 0) + holding.size
        if len(holding.keepers) == 1:
            (keeper,) = holding.keepers
            unique[keeper] = unique.get(keeper, 0) + holding.size
    rows = [
        _owner(keeper.kind, keeper.namespace, keeper.name, size, unique.get(keeper, 0))
        for keeper, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    ]
    garbage = sum(holding.size for holding in holdings if not holding.keepers)
    total = sum(holding.size for holding in holdings)
    return [*rows, _owner("garbage", "", "", garbage, garbage), _owner("total", "", "", total, total)]


def _owner(kind: str, namespace: str, name: str, size: int, unique: int) -> dict[str, Any]:
    return {
        "Type": kind,
        "Namespace": namespace,
        "Name": name,
        "Size": human_size(size),
        "Shared": human_size(size - unique),
        "Unique": human_size(unique),
        "Bytes": size,
    }


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would go, and why.")
@formatted
@connected()
async def gc(app: App, dry_run: bool) -> None:
    """Collect what nothing leads to any more, in all namespaces: blobs, snapshots, leases whose time is over.

    The daemon does so by itself, a moment after the last reference went.
    """
    if not dry_run:
        _tell(await app.client.garbage.collect())
        return
    doomed = await app.client.garbage.plan()
    if app.quiet:
        for one in doomed:
            print(one.name)
        return
    rows = [
        {
            "Namespace": one.namespace,
            "Type": one.kind,
            "Name": one.name,
            "Size": human_size(one.size),
            "Why": one.why,
            "Bytes": one.size,
        }
        for one in doomed
    ]
    print_rows(rows, _DOOMED, app.format)
    if app.format in ("", "table"):
        print(f"Total reclaimable space: {human_size(sum(one.size for one in doomed))}")


def _tell(done: Collected) -> None:
    print(f"Blobs: {done.blobs}\nSnapshots: {done.snapshots}\nUnfinished writes: {done.ingests}")
    for kind in ("image", "lease"):
        if done.records.get(kind):
            print(f"Expired {kind}s: {done.records[kind]}")
    print(f"Space of blobs: {human_size(done.blob_bytes)}")
