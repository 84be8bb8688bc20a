"""How a program comes to the streams of a container's processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from signal import SIGKILL
from typing import TYPE_CHECKING

from moorage_api.errors import FailedPrecondition, NotFound

if TYPE_CHECKING:
    from moorage.attachment import Attachment
    from moorage.container import ContainerHandle


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be run in a container."""

    args: Sequence[str]
    env: Sequence[str] = ()
    user: str = ""
    workdir: str = ""


@contextlib.asynccontextmanager
async def attached(container: ContainerHandle, *, start: bool) -> AsyncIterator[Attachment]:
    """The streams of a container's first process; see `ContainerHandle.attach`."""
    from moorage.attachment import Attachment
    from moorage.options import options_of

    async with container.fifos(stdin=True) as fifos:
        process = await (container.create_attached(fifos) if start else container.join(fifos))
        options = options_of(container.record)

        async def begin() -> None:
            if start:
                await process.start()

        closes = options is None or options.stdin_once
        async with Attachment(process, fifos, begin, closes_input=closes) as attachment:
            yield attachment


@contextlib.asynccontextmanager
async def spawned(
    container: ContainerHandle, command: Command, *, stdin: bool, terminal: bool
) -> AsyncIterator[Attachment]:
    """A command in a container, with its streams; see `ContainerHandle.spawn`."""
    from moorage.attachment import Attachment
    from moorage.stdio import Fifos

    async with Fifos(terminal=terminal, stdin=stdin) as fifos:
        process = await container.add_process(
            command.args, fifos.stdio, env=command.env, user=command.user, workdir=command.workdir
        )

        async def begin() -> None:
            await process.start()

        try:
            async with Attachment(process, fifos, begin) as attachment:
                yield attachment
        finally:
            with contextlib.suppress(NotFound, FailedPrecondition):
                await process.kill(SIGKILL)
                await process.wait()
            with contextlib.suppress(NotFound, FailedPrecondition):
                await process.delete()


@contextlib.asynccontextmanager
async def watched(container: ContainerHandle) -> AsyncIterator[asyncio.Event]:
    """An event that is set when a container has ended. What goes wrong with waiting is raised at the end."""
    ended = asyncio.Event()

    async def watch() -> None:
        try:
            if (await container.state()).running:
                await container.wait()
        except NotFound:
            # Removed meanwhile: ended, too.
            pass
        finally:
            ended.set()

    watching = asyncio.create_task(watch(), name="moorage wait")
    try:
        yield ended
        if watching.done():
            watching.result()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
