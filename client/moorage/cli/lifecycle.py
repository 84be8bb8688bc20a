"""`start`, `attach`, `stop`, `kill`, `rm`, `wait`: the life of containers."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import click

from moorage.cli.app import App, connected
from moorage.cli.each import for_each
from moorage.cli.errors import CommandError, start_failure
from moorage.cli.foreground import Console, attach, console_of
from moorage.cli.terminal import DETACH_KEYS
from moorage.cli.units import check_seconds
from moorage.container import ContainerHandle
from moorage.find import find
from moorage.signals import signal_number
from moorage_api.errors import MoorageError, NotFound

STOP_SECONDS = click.option(
    "-t",
    "--timeout",
    "--time",
    type=float,
    callback=check_seconds,
    default=None,
    help="Seconds to wait [10, or the container's own].",
)
STOP_SIGNAL = click.option("-s", "--signal", "name", default="", help="What to send in place of its stop signal.")
_CONTAINERS = click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")


@click.command()
@_CONTAINERS
@click.option("-a", "--attach", "attached", is_flag=True, help="Stay with it; the exit code is its own.")
@click.option("-i", "--interactive", is_flag=True, help="Give it the input.")
@click.option("--detach-keys", default=DETACH_KEYS, show_default=True, help="Keys that leave it running.")
@connected()
async def start(app: App, containers: tuple[str, ...], attached: bool, interactive: bool, detach_keys: str) -> int:
    """Start containers that do not run."""
    if not attached and not interactive:
        return await _each(app, containers, ContainerHandle.start)
    if len(containers) > 1:
        raise CommandError("only one container can be attached")
    container = await find(app.client, containers[0])
    console = console_of(container, detach_keys, interactive=interactive)
    console.check()
    return await _attached(container, console)


async def _attached(container: ContainerHandle, console: Console) -> int:
    async with container.fifos(stdin=console.interactive) as fifos:
        try:
            process = await container.create_attached(fifos)
            status = await attach(process, fifos, console)
        except MoorageError as error:
            raise start_failure(error) from error
    if status is None:
        return 0
    await _ended(container)
    return status


@click.command("attach")
@click.argument("name", metavar="CONTAINER")
@click.option("--no-stdin", is_flag=True, help="Only show what it writes.")
@click.option("--detach-keys", default=DETACH_KEYS, show_default=True, help="Keys that leave it running.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to it.")
@connected()
async def attach_verb(app: App, name: str, no_stdin: bool, detach_keys: str, sig_proxy: bool) -> int:
    """Stay with a running container; the exit code is its own. What it wrote before is in its logs."""
    container = await find(app.client, name)
    console = console_of(container, detach_keys, interactive=not no_stdin, proxy_signals=sig_proxy)
    console.check()
    async with container.fifos(stdin=console.interactive) as fifos:
        status = await attach(await container.join(fifos), fifos, console, running=True)
        if status is not None:
            await _ended(container)
        return status or 0


async def _ended(container: ContainerHandle) -> None:
    """What its maker wanted of it when it ends."""
    # Another client that was attached, too, may have been first.
    with contextlib.suppress(NotFound):
        if container.auto_remove:
            await container.remove(force=True)
        else:
            await container.finish()


@click.command()
@_CONTAINERS
@STOP_SECONDS
@STOP_SIGNAL
@connected()
async def stop(app: App, containers: tuple[str, ...], timeout: float | None, name: str) -> int:
    """Ask containers to end; kill those that do not within the time."""
    signal = signal_number(name) if name else None

    async def end(container: ContainerHandle) -> None:
        await container.stop(timeout, signal)
        if container.auto_remove:
            await container.remove(force=True)

    return await _each(app, containers, end)


@click.command()
@_CONTAINERS
@click.option("-s", "--signal", "name", default="KILL", show_default=True, help="A name or a number.")
@connected()
async def kill(app: App, containers: tuple[str, ...], name: str) -> int:
    """Send a signal to containers."""
    signal = signal_number(name)
    return await _each(app, containers, lambda container: container.kill(signal))


@click.command()
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-f", "--force", is_flag=True, help="Also those that run; no error where one is not there.")
@click.option("-v", "--volumes", is_flag=True, help="Also their volumes without a name.")
@connected()
async def rm(app: App, containers: tuple[str, ...], force: bool, volumes: bool) -> int:
    """Remove containers with their writable layers and logs."""
    return await _each(
        app, containers, lambda container: container.remove(force=force, volumes=volumes), missing_ok=force
    )


@click.command()
@_CONTAINERS
@connected()
async def wait(app: App, containers: tuple[str, ...]) -> int:
    """Wait until containers have ended, and print their exit codes."""

    async def ended(container: ContainerHandle) -> str:
        state = await container.state()
        if state.running:
            return str((await container.wait()).status)
        return str(state.exit_status or 0)

    return await _each(app, containers, ended, answer=True)


async def _each(
    app: App,
    containers: tuple[str, ...],
    action: Callable[[ContainerHandle], Awaitable[object]],
    *,
    missing_ok: bool = False,
    answer: bool = False,
) -> int:
    """Do `action` on each container, as `for_each` does."""

    async def one(wanted: str) -> object:
        return await action(await find(app.client, wanted))

    return await for_each(app, containers, one, missing_ok=missing_ok, answer=answer)
