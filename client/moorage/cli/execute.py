"""`exec`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import click

from moorage.cli.app import App, connected
from moorage.cli.errors import start_failure
from moorage.cli.flags import lines_of
from moorage.cli.foreground import Console, attach
from moorage.cli.terminal import DETACH_KEYS
from moorage.find import find
from moorage.process import ProcessHandle
from moorage.spec import with_own_values
from moorage_api.errors import MoorageError, NotFound
from moorage_api.runtime import Stdio

_Add = Callable[[Stdio], Awaitable[ProcessHandle]]


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("container")
@click.argument("command", nargs=-1, required=True, metavar="COMMAND [ARG...]", type=click.UNPROCESSED)
@click.option("-d", "--detach", is_flag=True, help="Let it run in the background.")
@click.option("-i", "--interactive", is_flag=True, help="Give it the input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Set the variables of a file.")
@click.option("--privileged", is_flag=True, help="With all capabilities that there are.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Who it runs as.")
@click.option("-w", "--workdir", default="", help="Its working directory.")
@click.option("--detach-keys", default=DETACH_KEYS, show_default=True, help="Keys that leave it running.")
@connected()
async def exec(
    app: App,
    /,
    container: str,
    command: tuple[str, ...],
    detach: bool,
    interactive: bool,
    tty: bool,
    detach_keys: str,
    **flags: Any,
) -> int:
    """Run a command in a running container.

    The exit code is the command's own; 126 where it cannot be run, 127 where it was not found.
    """
    handle = await find(app.client, container)
    env = with_own_values([*lines_of(flags["env_file"]), *flags["env"]])
    asked = {key: flags[key] for key in ("user", "workdir", "privileged")}
    add = functools.partial(handle.add_process, command, env=env, **asked)
    if detach:
        return await _detached(add, terminal=tty)
    # An exec's own signals are the terminal's: docker passes none on to it.
    console = Console(interactive, tty, detach_keys, proxy_signals=False)
    console.check()
    return await _attached(add, console)


async def _detached(add: _Add, *, terminal: bool) -> int:
    """Start it without streams. It stays known to the daemon until the container ends."""
    process = await add(Stdio(terminal=terminal))
    try:
        await process.start()
    except MoorageError as error:
        raise start_failure(error) from error
    return 0


async def _attached(add: _Add, console: Console) -> int:
    """Run it to its end; returns its exit code."""
    async with console.fifos() as fifos:
        process = await add(fifos.stdio)
        try:
            status = await attach(process, fifos, console)
        except MoorageError as error:
            raise start_failure(error) from error
        if status is None:
            return 0
        # Gone already where the container itself has ended.
        with contextlib.suppress(NotFound):
            await process.delete()
        return status
