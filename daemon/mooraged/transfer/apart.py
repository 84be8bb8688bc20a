"""Transfers on an event loop of their own: what is read from registries comes in large pieces, many in a second, and a call
would wait for its turn behind them. (Over a pull, the 90th percentile of `Version` falls by two fifths.)

Whoever calls notices nothing of it: what they pass in (progress, credentials, the bytes of archives) is used on their loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, TypeVar

from moorage_api.images import Image
from moorage_api.transfer import (
    ByteSink,
    ByteSource,
    ConvertOptions,
    CredentialSource,
    Explanation,
    ExportOptions,
    ImportOptions,
    Progress,
    ProgressSink,
    PullOptions,
    PushOptions,
    Transfer,
)
from moorage_api.types import Descriptor, Labels, Platform
from mooraged.loops import LoopThread, on_loop

OptionsT = TypeVar("OptionsT", PullOptions, PushOptions)


class Service(Protocol):
    """The engine."""

    def bind(self, namespace: str) -> Transfer: ...

    async def close(self) -> None: ...


class TransfersApart:
    """The instance of the TRANSFER plugin `local`: an engine that runs on a thread of its own."""

    def __init__(self, engine: Service) -> None:
        self._engine = engine
        self._thread = LoopThread("transfers")

    def bind(self, namespace: str) -> Transfer:
        """Transfers into one namespace."""
        return _Bound(self._thread, self._engine.bind(namespace))

    async def close(self) -> None:
        """Close all connections and take no more calls. Transfers still under way fail, and can be resumed later."""
        await self._thread.run(self._engine.close())
        self._thread.stop()


class _Bound:
    """`moorage_api.transfer.Transfer`, each method on the other loop."""

    def __init__(self, thread: LoopThread, transfer: Transfer) -> None:
        self._thread = thread
        self._transfer = transfer

    async def pull(
        self, reference: str, options: PullOptions = PullOptions(), progress: ProgressSink | None = None
    ) -> Image:
        return await self._thread.run(self._transfer.pull(reference, _asking(options), _told(progress)))

    async def unpack(self, image: Image, snapshotter: str = "", platform: Platform | None = None) -> str:
        return await self._thread.run(self._transfer.unpack(image, snapshotter, platform))

    async def push(
        self, name: str, reference: str, options: PushOptions = PushOptions(), progress: ProgressSink | None = None
    ) -> Descriptor:
        return await self._thread.run(self._transfer.push(name, reference, _asking(options), _told(progress)))

    async def tag(self, name: str, names: Sequence[str], labels: Labels | None = None) -> list[Image]:
        return await self._thread.run(self._transfer.tag(name, names, labels))

    async def import_archive(
        self, source: ByteSource, options: ImportOptions = ImportOptions(), progress: ProgressSink | None = None
    ) -> list[Image]:
        return await self._thread.run(
            self._transfer.import_archive(_read(source, asyncio.get_running_loop()), options, _told(progress))
        )

    async def export_archive(
        self,
        names: Sequence[str],
        sink: ByteSink,
        options: ExportOptions = ExportOptions(),
        progress: ProgressSink | None = None,
    ) -> None:
        await self._thread.run(self._transfer.export_archive(names, _written(sink), options, _told(progress)))

    async def convert(
        self, name: str, target: str, options: ConvertOptions = ConvertOptions(), progress: ProgressSink | None = None
    ) -> Image:
        return await self._thread.run(self._transfer.convert(name, target, options, _told(progress)))

    async def explain(self, reference: str, options: PullOptions = PullOptions()) -> Explanation:
        return await self._thread.run(self._transfer.explain(reference, _asking(options)))

    async def referrers(
        self, reference: str, artifact_type: str = "", options: PullOptions = PullOptions()
    ) -> list[Descriptor]:
        return await self._thread.run(self._transfer.referrers(reference, artifact_type, _asking(options)))


# From here on: what was made for the calling loop, for use on another.


def _told(progress: ProgressSink | None) -> ProgressSink | None:
    """Progress is told before the end of the transfer is: both take the same way."""
    if progress is None:
        return None
    here = asyncio.get_running_loop()

    def tell(step: Progress) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody listens
            here.call_soon_threadsafe(progress, step)

    return tell


def _asking(options: OptionsT) -> OptionsT:
    source = options.credentials
    return options if source is None else replace(options, credentials=_asked(source))


def _asked(source: CredentialSource) -> CredentialSource:
    here = asyncio.get_running_loop()
    return lambda host: on_loop(here, source, host)


async def _read(source: ByteSource, here: asyncio.AbstractEventLoop) -> AsyncIterator[bytes]:
    async def piece() -> bytes | None:
        return await anext(source, None)

    while (data := await on_loop(here, piece)) is not None:
        yield data


def _written(sink: ByteSink) -> ByteSink:
    here = asyncio.get_running_loop()
    return lambda data: on_loop(here, sink, data)
