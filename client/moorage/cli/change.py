"""`pause`, `unpause`, `restart`, `rename`, `update`, `commit`: what is changed of containers."""

from __future__ import annotations

import asyncio
import json
import shlex
from dataclasses import replace
from typing import Any

import click

from moorage import labels, names
from moorage.cli.app import App, connected
from moorage.cli.each import for_each
from moorage.cli.errors import CommandError
from moorage.cli.flags import limits, limits_of
from moorage.cli.lifecycle import STOP_SECONDS, STOP_SIGNAL
from moorage.cli.pairs import pairs
from moorage.container import ContainerHandle
from moorage.find import find
from moorage.image_config import resolve
from moorage.limits import set_limits
from moorage.options import EXTENSION, ContainerOptions, options_of, pack_options
from moorage.signals import signal_number
from moorage_api import native
from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.native import RestartPolicy, own_folder
from moorage_api.oci import spec as oci
from moorage_api.oci.build import Change
from moorage_api.oci.reference import parse
from moorage_api.runtime import Status
from moorage_api.types import TypedValue

_CONTAINERS = click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")


@click.command()
@_CONTAINERS
@connected()
async def pause(app: App, containers: tuple[str, ...]) -> int:
    """Freeze all processes of containers."""

    async def one(wanted: str) -> None:
        await app.client.tasks.pause((await find(app.client, wanted)).id)

    return await for_each(app, containers, one)


@click.command()
@_CONTAINERS
@connected()
async def unpause(app: App, containers: tuple[str, ...]) -> int:
    """Let the processes of frozen containers go on."""

    async def one(wanted: str) -> None:
        handle = await find(app.client, wanted)
        if (await handle.state()).status != "paused":
            raise FailedPrecondition(f"container {handle.name} is not paused")
        await app.client.tasks.resume(handle.id)

    return await for_each(app, containers, one)


@click.command()
@_CONTAINERS
@STOP_SECONDS
@STOP_SIGNAL
@connected()
async def restart(app: App, containers: tuple[str, ...], timeout: float | None, name: str) -> int:
    """Stop containers where they run, and start them."""
    signal = signal_number(name) if name else None

    async def one(wanted: str) -> None:
        handle = await find(app.client, wanted)
        await handle.stop(timeout, signal)
        await handle.start()

    return await for_each(app, containers, one)


@click.command()
@click.argument("container")
@click.argument("name")
@connected()
async def rename(app: App, container: str, name: str) -> None:
    """Give a container another name."""
    handle = await find(app.client, container)
    names.check_name(name)
    changed = replace(handle.record, labels={**handle.record.labels, labels.NAME: name})
    await app.client.containers.update(changed, [f"labels.{labels.NAME}"])
    from moorage.network import attach

    folder = own_folder(handle.record.labels, handle.id)
    await asyncio.to_thread(attach.rename, folder, handle.name, name)


@click.command()
@_CONTAINERS
@limits
@click.option("--restart", "policy", default="", help="no, always, unless-stopped, on-failure[:TIMES].")
@connected()
async def update(app: App, /, containers: tuple[str, ...], **flags: Any) -> int:
    """Change limits and restart policies of containers, at once where they run."""
    given = limits_of(flags)
    if flags["policy"]:
        given["restart"] = str(RestartPolicy.parse(flags["policy"]))
    if not given:
        raise InvalidArgument("nothing to change: give at least one option")

    async def one(wanted: str) -> None:
        await _update(app, await find(app.client, wanted), given)

    return await for_each(app, containers, one)


async def _update(app: App, handle: ContainerHandle, given: dict[str, Any]) -> None:
    """The running container first: what it refuses is not written down."""
    options = replace(options_of(handle.record) or ContainerOptions(), **given)
    spec = oci.decode(handle.record.spec)
    set_limits(spec, options)
    process = await handle.process()
    if process is not None and process.status in (Status.RUNNING, Status.PAUSED):
        resources = spec["linux"]["resources"]
        changed = {key: resources[key] for key in ("memory", "cpu", "pids") if key in resources}
        await app.client.tasks.update(handle.id, TypedValue(oci.RESOURCES_URL, json.dumps(changed).encode()))
    fields = ["spec", f"extensions.{EXTENSION}"]
    found = dict(handle.record.labels)
    if "restart" in given:
        found[native.RESTART_POLICY] = given["restart"]
        found[native.RESTART_STATUS] = native.RUNNING if process is not None else native.STOPPED
        if handle.log_path:
            found[native.RESTART_LOG] = f"cri://{handle.log_path}"
        fields += [f"labels.{key}" for key in (native.RESTART_POLICY, native.RESTART_STATUS, native.RESTART_LOG)]
    record = replace(
        handle.record,
        spec=oci.encode(spec),
        labels=found,
        extensions={**handle.record.extensions, EXTENSION: pack_options(options)},
    )
    await app.client.containers.update(record, fields)


@click.command()
@click.argument("container")
@click.argument("reference", metavar="[REPOSITORY[:TAG]]", default="")
@click.option("-a", "--author", default="", help="Who made it.")
@click.option("-m", "--message", default="", help="What was changed.")
@click.option("-c", "--change", "instructions", multiple=True, help="CMD, ENTRYPOINT, ENV, LABEL, USER, WORKDIR.")
@click.option("-p", "--pause/--no-pause", "frozen", default=True, help="Freeze the container meanwhile.")
@connected()
async def commit(
    app: App, container: str, reference: str, author: str, message: str, instructions: tuple[str, ...], frozen: bool
) -> None:
    """Make an image of what a container has become."""
    from moorage.commit import commit as make

    handle = await find(app.client, container)
    name = parse(reference).canonical if reference else ""
    options = options_of(handle.record)
    command = " ".join(options.args) if options else ""
    change = Change(created_by=command, author=author, comment=message, config=instructions_as_config(instructions))
    frozen = frozen and (await handle.state()).status == "running"
    if frozen:
        await app.client.tasks.pause(handle.id)
    try:
        image = await make(app.client, handle, name, change)
    finally:
        if frozen:
            await app.client.tasks.resume(handle.id)
    print((await resolve(app.client.content, image)).id)


def instructions_as_config(instructions: tuple[str, ...]) -> dict[str, Any]:
    """Instructions of a Dockerfile, as far as they concern the run configuration, as its fields."""
    config: dict[str, Any] = {}
    for instruction in instructions:
        word, _, rest = instruction.strip().partition(" ")
        rest = rest.strip()
        match word.upper():
            case "CMD" | "ENTRYPOINT" as kind:
                config[kind.capitalize()] = _words(rest)
            case "ENV":
                config.setdefault("Env", []).append(rest if "=" in rest else rest.replace(" ", "=", 1))
            case "LABEL":
                config.setdefault("Labels", {}).update(pairs(_split(rest)))
            case "USER":
                config["User"] = rest
            case "WORKDIR":
                config["WorkingDir"] = rest
            case _:
                raise CommandError(
                    f"unknown change {instruction!r}: expected CMD, ENTRYPOINT, ENV, LABEL, USER or WORKDIR"
                )
    return config


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid words {text!r}: {error}") from None


def _words(text: str) -> list[str]:
    """`["a", "b"]`, or a line for the shell."""
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError:
            words = None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
        raise InvalidArgument(f"invalid list of words {text!r}: expected JSON")
    return ["/bin/sh", "-c", text]
