"""`run` and `create`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from moorage.cli.app import App, connected
from moorage.cli.errors import DAEMON_ERROR, CommandError, start_failure
from moorage.cli.flags import container_options, read_options
from moorage.cli.foreground import OUTPUTS, Console, attach, feed
from moorage.cli.images import ensure
from moorage.cli.mounts import with_volumes_from
from moorage.cli.terminal import DETACH_KEYS
from moorage.create import Created
from moorage.create import create as create_container
from moorage.options import ContainerOptions
from moorage_api.errors import InvalidArgument, MoorageError, NotFound

# What follows the image is the container's command line, whatever it looks like; -h is docker's --hostname.
_CONTEXT: Mapping[str, Any] = {"allow_interspersed_args": False, "help_option_names": ["--help"]}


@click.command(context_settings=_CONTEXT)
@container_options
@click.option("-d", "--detach", is_flag=True, help="Let it run in the background, and print its id.")
@click.option("--detach-keys", default=DETACH_KEYS, show_default=True, help="Keys that leave it running.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to it.")
@connected(failure=DAEMON_ERROR)
async def run(
    app: App, /, image: str, pull: str, platform: str, detach: bool, detach_keys: str, sig_proxy: bool, **flags: Any
) -> int | None:
    """Run a command in a new container.

    The exit code is the command's own; 125 where the daemon failed, 126 where the command cannot be run, 127 where
    it was not found.
    """
    streams = flags["attach"] or ("stdin", *OUTPUTS)
    if detach and flags["attach"]:
        raise InvalidArgument("conflicting options: --attach and --detach")
    shown = [name for name in OUTPUTS if name in streams]
    console = Console(flags["interactive"] and "stdin" in streams, flags["tty"], detach_keys, sig_proxy, shown=shown)
    if not detach:
        console.check()
    options, created = await _create(app, image, pull, platform, flags, stdin_once=not detach)
    if detach or not shown:
        await _background(created, options, feeding=not detach)
        return None
    return await _foreground(app, created, console, options)


@click.command(context_settings=_CONTEXT)
@container_options
@connected(failure=DAEMON_ERROR)
async def create(app: App, /, image: str, pull: str, platform: str, **flags: Any) -> None:
    """Make a container and print its id; `start` starts it."""
    _, created = await _create(app, image, pull, platform, flags, stdin_once=True)
    print(created.handle.id)


async def _create(
    app: App, image: str, pull: str, platform: str, flags: Mapping[str, Any], *, stdin_once: bool
) -> tuple[ContainerOptions, Created]:
    """Make the container that is asked for; its id goes into the file that is asked for."""
    path = flags["cidfile"]
    if path and os.path.exists(path):
        raise InvalidArgument(
            f"the file {path} is there already: is that container still wanted? Remove it, or name another"
        )
    resolved = await ensure(app, image, pull, platform)
    options = await with_volumes_from(app.client, read_options(flags, resolved), flags["volumes_from"])
    options = replace(options, stdin_once=flags["interactive"] and stdin_once)
    created = await create_container(app.client, resolved, options)
    if path:
        try:
            _write_id(path, created.handle.id)
        except OSError as error:
            await created.handle.remove()
            raise CommandError(f"cannot write {path}: {error.strerror}", DAEMON_ERROR) from None
    return options, created


def _write_id(path: str, id: str) -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.write(id)


async def _background(created: Created, options: ContainerOptions, *, feeding: bool) -> None:
    """Start it, `feeding` it the user's input to its end, and print its id."""
    container = created.handle
    try:
        if feeding and options.stdin:
            async with container.fifos(stdin=True) as fifos:
                await feed(await container.create_attached(fifos, created.mounts), fifos)
        else:
            await container.start(created.mounts)
    except MoorageError as error:
        if options.auto_remove:
            await container.remove(force=True)
        raise start_failure(error) from error
    print(container.id)


async def _foreground(app: App, created: Created, console: Console, options: ContainerOptions) -> int:
    """Run attached. Whatever ends it but a detaching, what was asked to be removed is removed."""
    container = created.handle
    remove = options.auto_remove
    try:
        async with contextlib.AsyncExitStack() as stack:
            fifos = await stack.enter_async_context(container.fifos(stdin=console.interactive))
            try:
                process = await container.create_attached(fifos, created.mounts)
                status = await attach(process, fifos, console)
            except MoorageError as error:
                raise start_failure(error) from error
            if status is None:
                remove = False
                return 0
        if not remove:
            await container.finish()
        return status
    finally:
        if remove:
            # Removed already where the daemon took this client for dead.
            with contextlib.suppress(NotFound):
                await container.remove(force=True)
