"""Parts of one blob, fetched side by side by Range requests and handed on in their order."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Self

import aiohttp

from moorage_api.errors import DataLoss
from moorage_api.types import Descriptor
from mooraged.transfer.failures import HostFailure, of_exception
from mooraged.transfer.hosts import Host
from mooraged.transfer.source import Source

_PARTIAL = 206
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


class Part:
    """The bytes of a blob from `start` to before `end`, fetched by a task. What has come waits in memory to be taken."""

    def __init__(self, source: Source, host: Host, descriptor: Descriptor, start: int, end: int) -> None:
        self.size = end - start
        self._source = source
        self._host = host
        self._descriptor = descriptor
        self._start = start
        self._come: asyncio.Queue[bytes | HostFailure] = asyncio.Queue()
        self._task = asyncio.create_task(self._fetch(), name=f"part from {start} of {descriptor.digest}")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, as they come; all of them, or a `HostFailure`."""
        left = self.size
        while left:
            come = await self._come.get()
            if isinstance(come, HostFailure):
                raise come
            left -= len(come)
            yield come

    async def stop(self) -> None:
        """Fetch no more; returns when its connection is free."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _fetch(self) -> None:
        try:
            await self._receive()
        except HostFailure as failure:
            self._come.put_nowait(failure)

    async def _receive(self) -> None:
        end, digest = self._start + self.size, self._descriptor.digest
        headers = {"Range": f"bytes={self._start}-{end - 1}"}
        async with self._source.request(self._host, "GET", "blobs", digest, headers) as response:
            if response.status != _PARTIAL:
                raise HostFailure(DataLoss("it gives parts, and then no more"), transient=True)
            check_range(response, self._start, end, self._descriptor.size)
            left = self.size
            async for chunk in chunks_of(response):
                left -= len(chunk)
                if left < 0:
                    raise HostFailure(DataLoss(f"it gives more than the {self.size} bytes that were asked for"))
                self._come.put_nowait(chunk)
        if left:
            raise HostFailure(DataLoss(f"the answer ended {left} bytes early"), transient=True)


class Parts:
    """Begins the parts at `starts` in their order, at most `most` of them before the first has been taken.

    Leaving the context stops those under way.
    """

    def __init__(self, begin: Callable[[int], Part], starts: Iterable[int], most: int) -> None:
        self._begin = begin
        self._starts = iter(starts)
        self._most = most
        self._begun: deque[Part] = deque()

    async def __aenter__(self) -> Self:
        return self

    async def __aiter__(self) -> AsyncIterator[Part]:
        self._more()
        while self._begun:
            yield self._begun[0]
            await self._begun.popleft().stop()
            self._more()

    def _more(self) -> None:
        while len(self._begun) < self._most and (start := next(self._starts, None)) is not None:
            self._begun.append(self._begin(start))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self._begun:
            await part.stop()
