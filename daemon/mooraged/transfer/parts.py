"""Parts of one blob, fetched side by side by Range requests."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

import aiohttp

from moorage_api.errors import DataLoss
from mooraged.transfer.failures import HostFailure, of_exception

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


async def chunks_of(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body as it comes. `HostFailure` where the connection breaks."""
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError) as error:
        raise of_exception(error) from error


def check_range(response: aiohttp.ClientResponse, start: int, end: int, size: int) -> None:
    """`HostFailure` where the answer is of other bytes than those from `start` to before `end` of `size`."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or (int(match[1]), int(match[2])) != (start, end - 1) or match[3] not in (str(size), "*"):
        raise HostFailure(DataLoss(f"asked for bytes {start} to {end - 1} of {size}, it gives others"))


def parts_of(gaps: Iterable[tuple[int, int]], part: int) -> Iterator[tuple[int, int]]:
    """The ranges `gaps`, cut at multiples of `part`."""
    for start, end in gaps:
        while start < end:
            stop = min(start - start % part + part, end)
            yield start, stop
            start = stop


async def side_by_side(
    fetch: Callable[[int, int], Awaitable[None]],
    parts: Iterable[tuple[int, int]],
    most: int,
    begins: Callable[[int], bool],
) -> None:
    """Have `fetch` get the parts, begun in their order, at most `most` at once; the first that is missing always, others
    when `begins` of their start. When one fails, those under way are cancelled and waited for, and the error is raised."""
    waiting = deque(parts)
    running: set[asyncio.Task[None]] = set()
    try:
        while waiting or running:
            while waiting and len(running) < most and (not running or begins(waiting[0][0])):
                start, end = waiting.popleft()
                running.add(asyncio.create_task(_awaited(fetch(start, end)), name=f"part from {start} to {end}"))
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            # Several may have failed at once: each is asked, so that none is reported as never retrieved.
            errors = [error for task in done if (error := task.exception()) is not None]
            if errors:
                raise errors[0]
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _awaited(work: Awaitable[None]) -> None:
    await work
