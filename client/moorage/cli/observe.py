"""`top`, `stats`, `port`, `diff`: what a container does, uses and has changed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import click

from moorage.cli.app import App, connected
from moorage.cli.errors import CommandError
from moorage.cli.output import print_rows
from moorage.cli.units import binary_size, human_size
from moorage.commit import changes, layers
from moorage.find import find
from moorage.options import options_of
from moorage.rootfs import open_inside, read_only, with_rootfs
from moorage_api.types import TypedValue

_STATS = {
    "CONTAINER ID": "ID",
    "NAME": "Name",
    "CPU %": "CPUPerc",
    "MEM USAGE / LIMIT": "MemUsage",
    "MEM %": "MemPerc",
    "NET I/O": "NetIO",
    "BLOCK I/O": "BlockIO",
    "PIDS": "PIDs",
}
_TOP_LEAST = 20
_OWN_FILES = ("etc/hosts", "etc/resolv.conf")
_CLEAR = "\x1b[H\x1b[J"
_WHITEOUT = ".wh."
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("container")
@click.argument("ps_options", nargs=-1, type=click.UNPROCESSED, metavar="[PS OPTIONS]")
@connected()
async def top(app: App, container: str, ps_options: tuple[str, ...]) -> None:
    """Show the processes of a container, by ps of the host."""
    handle = await find(app.client, container)
    if not (await handle.state()).running:
        raise CommandError(f"container {handle.name} is not running")
    pids = {str(pid) for pid in await app.client.tasks.pids(handle.id)}
    command = ["ps", *(ps_options or ("-ef",))]
    try:
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CommandError("ps is not installed on this host: install procps") from error
    heading, *lines = done.stdout.splitlines() or [""]
    columns = heading.split()
    if done.returncode or "PID" not in columns:
        raise CommandError(f"ps shows no PID with these options: {done.stderr.strip() or ' '.join(command)}")
    rows = [line.split(None, len(columns) - 1) for line in lines]
    kept = [dict(zip(columns, row, strict=False)) for row in rows if row[columns.index("PID")] in pids]
    print_rows(kept, {column: column for column in columns}, app.format, _TOP_LEAST)


@click.command()
@click.argument("container")
@click.argument("private", default="", metavar="[PORT[/PROTOCOL]]")
@connected()
async def port(app: App, container: str, private: str) -> int:
    """Show where a container's ports are on the host."""
    handle = await find(app.client, container)
    options = options_of(handle.record)
    published = options.publish if options is not None and (await handle.state()).running else ()
    wanted = private if "/" in private or not private else f"{private}/tcp"
    shown = 0
    for mapping in published:
        key = f"{mapping.container}/{mapping.protocol}"
        where = f"{mapping.host_ip or '0.0.0.0'}:{mapping.host}"
        if wanted in ("", key):
            print(where if wanted else f"{key} -> {where}")
            shown += 1
    if wanted and not shown:
        raise CommandError(f"no public port '{wanted}' published for {container}")
    return 0


@dataclass(frozen=True, slots=True)
class _Used:
    """What a container has used, at a moment: processor time and moments in nanoseconds, the rest in bytes."""

    at: int
    cpu: int
    memory: int
    limit: int
    pids: int
    read: int
    written: int


@click.command()
@click.argument("containers", nargs=-1, metavar="[CONTAINER...]")
@click.option("-a", "--all", is_flag=True, help="Also those that do not run.")
@click.option("--no-stream", is_flag=True, help="Once, not again and again.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten ids.")
@click.option("--format", default="", metavar="FORMAT", help="table, json, or a Go template.")
@connected()
async def stats(app: App, containers: tuple[str, ...], all: bool, no_stream: bool, no_trunc: bool) -> None:
    """Show what containers use, until interrupted."""
    chosen = [(await find(app.client, name)).record for name in containers]
    before: dict[str, _Used] = {}
    first = True
    while True:
        records = chosen or await app.client.containers.list()
        processes = {process.container_id: process for process in await app.client.tasks.list()}
        used = {id: _read(value) for id, value in (await app.client.tasks.metrics()).items()}
        rows = [
            _stat(
                record.id if no_trunc else record.id[:12],
                _name(app, record),
                used.get(record.id),
                before.get(record.id),
                pid,
            )
            for record in records
            if (pid := processes[record.id].pid if record.id in processes else 0) or all or chosen
        ]
        if not first or not no_stream:
            if sys.stdout.isatty() and not no_stream:
                print(end=_CLEAR)
            print_rows(rows, _STATS, app.format)
            sys.stdout.flush()
        if no_stream and not first:
            return
        before, first = used, False
        await asyncio.sleep(1 if not no_stream else 0.5)


def _name(app: App, record: Any) -> str:
    from moorage.labels import name_of

    return name_of(record)


def _read(value: TypedValue) -> _Used:
    now = time.monotonic_ns()
    if value.type_url.rpartition("/")[2] == "io.containerd.cgroups.v1.Metrics":
        from moorage_api.wire import cgroups_v1_pb2

        one = cgroups_v1_pb2.Metrics.FromString(value.value)
        entries = one.blkio.io_service_bytes_recursive
        return _Used(
            now,
            one.cpu.usage.total,
            max(one.memory.usage.usage - one.memory.total_inactive_file, 0),
            one.memory.usage.limit,
            one.pids.current,
            sum(entry.value for entry in entries if entry.op.lower() == "read"),
            sum(entry.value for entry in entries if entry.op.lower() == "write"),
        )
    from moorage_api.wire import cgroups_v2_pb2

    two = cgroups_v2_pb2.Metrics.FromString(value.value)
    return _Used(
        now,
        two.cpu.usage_usec * 1000,
        max(two.memory.usage - two.memory.inactive_file, 0),
        two.memory.usage_limit,
        two.pids.current,
        sum(entry.rbytes for entry in two.io.usage),
        sum(entry.wbytes for entry in two.io.usage),
    )


def _stat(id: str, name: str, used: _Used | None, before: _Used | None, pid: int) -> dict[str, str]:
    if used is None:
        dashes = dict.fromkeys(_STATS.values(), "--")
        return {**dashes, "ID": id, "Container": id, "Name": name, "MemUsage": "-- / --"}
    share = 100 * (used.cpu - before.cpu) / (used.at - before.at) if before and used.at > before.at else 0.0
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = used.limit if 0 < used.limit < total else total
    received, sent = _network(pid)
    return {
        "ID": id,
        "Container": id,
        "Name": name,
        "CPUPerc": f"{share:.2f}%",
        "MemUsage": f"{binary_size(used.memory)} / {binary_size(limit)}",
        "MemPerc": f"{100 * used.memory / limit:.2f}%",
        "NetIO": f"{human_size(received)} / {human_size(sent)}",
        "BlockIO": f"{human_size(used.read)} / {human_size(used.written)}",
        "PIDs": str(used.pids),
    }


def _network(pid: int) -> tuple[int, int]:
    """Bytes that a process's interfaces have received and sent, all but the loopback; zeros where it has ended."""
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as table:
            lines = [line.partition(":") for line in table.readlines()[2:]]
    except OSError:
        return 0, 0
    counts = [fields.split() for name, _, fields in lines if name.strip() != "lo"]
    return sum(int(fields[0]) for fields in counts), sum(int(fields[8]) for fields in counts)


@click.command()
@click.argument("container")
@connected()
async def diff(app: App, container: str) -> int:
    """List what a container has added (A), changed (C) and deleted (D) in its file system."""
    handle = await find(app.client, container)
    async with app.client.leased() as leased:
        layer = await changes(leased, handle, _LAYER)
        with tempfile.TemporaryFile() as file:
            async for piece in leased.content.read(layer.digest):
                file.write(piece)
            file.seek(0)
            names = await asyncio.to_thread(_names, file)
        names = _without_own_files(names)
        async with layers(leased, handle) as (lower, _):
            shown = await asyncio.to_thread(
                with_rootfs, read_only(lower), "look up files", lambda root: _kinds(root, names)
            )
    for kind, name in shown:
        print(kind, name)
    return 0


def _without_own_files(names: list[str]) -> list[str]:
    """Without the files that every container is given, and the folder that is there for their sake alone."""
    kept = [name for name in names if name not in _OWN_FILES]
    alone = len(kept) < len(names) and not any(name.startswith("etc/") for name in kept)
    return [name for name in kept if not (alone and name == "etc")]


def _names(file: Any) -> list[str]:
    with tarfile.open(fileobj=file) as tar:
        return [member.name.strip("/") for member in tar if member.name.strip("./")]


def _kinds(root: str, names: list[str]) -> list[tuple[str, str]]:
    """Each path with its letter. A folder that is in the layer for the sake of what is in it counts as changed."""
    found: dict[str, str] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        if last.startswith(_WHITEOUT):
            hidden = last.removeprefix(_WHITEOUT)
            if not hidden.startswith(_WHITEOUT):
                found[f"/{folder}/{hidden}".replace("//", "/")] = "D"
            continue
        found[f"/{name}"] = "C" if _exists(root, name) else "A"
    return sorted(((kind, name) for name, kind in found.items()), key=lambda pair: pair[1])


def _exists(root: str, name: str) -> bool:
    try:
        os.close(open_inside(root, name, os.O_PATH | os.O_NOFOLLOW))
    except OSError:
        return False
    return True
