"""Moving bytes between a client and a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from moorage_api.errors import MoorageError
from moorage_cri.concurrency import finish
from moorage_cri.streaming.fifos import FifoReader, FifoWriter
from moorage_cri.streaming.inbox import Inbox
from moorage_cri.streaming.remotecommand import RemoteStreams, Writer, sizes


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run works beside the block; those that have not ended with it are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await finish(asyncio.gather(*tasks, return_exceptions=True))


async def send_output(source: FifoReader, target: Writer) -> None:
    """Until the process has closed the stream."""
    while data := await source.read():
        await target.write(data)


async def take_input(source: Inbox, target: FifoWriter) -> None:
    """Until the client has closed the stream, or the process reads no more; the target is closed."""
    try:
        while data := await source.get():
            await target.write(data)
    except BrokenPipeError:
        source.refuse()
    finally:
        target.close()


async def follow_sizes(source: Inbox, resize: Callable[[int, int], Awaitable[None]]) -> None:
    """Give the terminal each size that the client sends. One that has ended has no size."""
    async for width, height in sizes(source):
        with suppress(MoorageError):
            await resize(width, height)
    source.refuse()


def outputs(readers: dict[str, FifoReader], streams: RemoteStreams) -> list[Coroutine[Any, Any, None]]:
    """The works that send what a process writes."""
    targets = {"stdout": streams.stdout, "stderr": streams.stderr}
    works = []
    for name, reader in readers.items():
        target = targets[name]
        if target is not None:
            works.append(send_output(reader, target))
    return works
