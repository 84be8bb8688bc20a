"""`exec`."""

from __future__ import annotations

import contextlib

import click

from moorage.cli.app import App, connected
from moorage.cli.errors import start_failure
from moorage.cli.foreground import Console, attach
from moorage.cli.terminal import DETACH_KEYS
from moorage.container import ContainerHandle
from moorage.find import find
from moorage_api.errors import MoorageError, NotFound
from moorage_api.runtime import Stdio


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("container")
@click.argument("command", nargs=-1, required=True, metavar="COMMAND [ARG...]", type=click.UNPROCESSED)
@click.option("-d", "--detach", is_flag=True, help="Let it run in the background.")
@click.option("-i", "--interactive", is_flag=True, help="Give it the input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Who it runs as.")
@click.option("-w", "--workdir", default="", help="Its working directory.")
@click.option("--detach-keys", default=DETACH_KEYS, show_default=True, help="Keys that leave it running.")
@connected()
async def exec(
    app: App,
    container: str,
    command: tuple[str, ...],
    detach: bool,
    interactive: bool,
    tty: bool,
    env: tuple[str, ...],
    user: str,
    workdir: str,
    detach_keys: str,
) -> int:
    """Run a command in a running container.

    The exit code is the command's own; 126 where it cannot be run, 127 where it was not found.
    """
    handle = await find(app.client, container)
    request = _Request(handle, command, env, user, workdir)
    if detach:
        return await request.detached(terminal=tty)
    # An exec's own signals are the terminal's: docker passes none on to it.
    console = Console(interactive, tty, detach_keys, proxy_signals=False)
    console.check()
    return await request.attached(console)


class _Request:
    """A command to be run in a container."""

    def __init__(
        self, container: ContainerHandle, command: tuple[str, ...], env: tuple[str, ...], user: str, workdir: str
    ) -> None:
        self._container = container
        self._command = command
        self._env = env
        self._user = user
        self._workdir = workdir

    async def detached(self, *, terminal: bool) -> int:
        """Start it without streams. It stays known to the daemon until the container ends."""
        process = await self._container.add_process(
            self._command, Stdio(terminal=terminal), env=self._env, user=self._user, workdir=self._workdir
        )
        try:
            await process.start()
        except MoorageError as error:
            raise start_failure(error) from error
        return 0

    async def attached(self, console: Console) -> int:
        """Run it to its end; returns its exit code."""
        async with console.fifos() as fifos:
            process = await self._container.add_process(
                self._command, fifos.stdio, env=self._env, user=self._user, workdir=self._workdir
            )
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
