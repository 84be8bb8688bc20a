"""Applies a layer, within a worker process: one thread inflates and hashes, another extracts."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from moorage_api.erofs.layer import keep_image, layer_folder, new_image
from moorage_api.linux import syscalls
from mooraged.differ.compression import Decompressor
from mooraged.differ.extract import Extractor
from mooraged.differ.growing import GrowingFile, Growth
from mooraged.differ.helper import Helper, Refused
from mooraged.differ.image import ImageSink
from mooraged.differ.messages import Apply
from mooraged.differ.passing import Passing
from mooraged.differ.settling import Settling
from mooraged.differ.sink import Sink
from mooraged.differ.tar.events import LimitError
from mooraged.differ.tar.reader import Reader
from mooraged.differ.targets import overlay_option, target
from mooraged.differ.whiteouts import NothingBelow, PlainWhiteouts, remove_entry

logger = logging.getLogger(__name__)
_BUFFERS = 6
_BUFFER_SIZE = 1 << 19


@dataclass(frozen=True, slots=True)
class Applied:
    """The uncompressed layer: its digest (the diff ID) and its size in bytes; whether folders were made that the layer
    has no entries for."""

    digest: str
    size: int
    incomplete: bool = False


class Applying:
    """One layer on its way from a file onto mounts. `size` is how many uncompressed bytes were handed to the extraction."""

    def __init__(self, request: Apply, growth: Growth) -> None:
        self._request = request
        self._growth = growth
        self.size = 0

    def run(self) -> Applied:
        """Extract the layer. `TarError`, `OSError`; what was extracted by then stays."""
        folder = layer_folder(self._request.mounts)
        try:
            return self._run(_Building(self._request, folder) if folder else _Unpacking(self._request))
        except Refused as refusal:
            # Two entries of one name, or a fault: one after the other, it is known what comes of it, and what to say.
            logger.info("a layer is extracted again without a helper: %s", refusal)
            return self._run(_Unpacking(self._request, helped=False))

    def _run(self, extraction: _Extraction) -> Applied:
        self.size = 0
        extraction.start()
        digest = hashlib.sha256()
        try:
            with open(self._request.path, "rb", buffering=0) as file:
                size = self._request.size
                ceiling = self._request.limits.ceiling(size)
                blob = GrowingFile(file, size, self._growth) if self._request.grows else file
                source = Decompressor(Passing(blob, file.fileno()))
                while (buffer := extraction.free()) is not None:
                    count = source.readinto(buffer)
                    if not count:
                        extraction.complete()
                        break
                    self.size += count
                    if self.size > ceiling:
                        raise LimitError(f"more than {ceiling} bytes uncompressed")
                    digest.update(buffer[:count])
                    extraction.put(buffer, count)
        finally:
            extraction.stop()
        return Applied(f"sha256:{digest.hexdigest()}", self.size, extraction.incomplete)


class _Extraction(threading.Thread, ABC):
    """The thread that reads the archive and makes its files. Buffers go to it filled, and come back to be filled again:
    few and small, so that they stay in the processor's cache, and memory is bounded. With half of their size the threads wait
    for one another more often, and a layer takes a tenth longer."""

    def __init__(self, request: Apply) -> None:
        super().__init__(name="extract")
        self._request = request
        self.incomplete = False
        self._free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._filled: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(memoryview(bytearray(_BUFFER_SIZE)))
        self._complete = False
        self._error: BaseException | None = None

    @abstractmethod
    def _extract(self) -> None:
        """Take the archive."""

    def free(self) -> memoryview | None:
        """A buffer to fill; None when the extraction has failed and wants no more."""
        return self._free.get()

    def put(self, buffer: memoryview, count: int) -> None:
        """Hand over a buffer with the next `count` bytes."""
        self._filled.put((buffer, count))

    def complete(self) -> None:
        """Say that all bytes were handed over."""
        self._complete = True

    def stop(self) -> None:
        """Wait for the end, and give up what is not complete. Raises what the extraction failed with."""
        self._filled.put(None)
        self.join()
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        try:
            self._extract()
        except BaseException as error:  # noqa: BLE001 (raised again by stop, in the thread that waits)
            self._error = error
        finally:
            self._free.put(None)

    def _feed(self, sink: Sink[Any], settling: Settling) -> None:
        """Have `sink` take the archive."""
        reader = Reader(whole=_BUFFER_SIZE)
        take = sink.take
        try:
            while (filled := self._filled.get()) is not None:
                buffer, count = filled
                for event in reader.receive(buffer[:count]):
                    take(event)
                self._free.put(buffer)
                settling.passed(count)
            if self._complete:
                reader.finish()
                sink.finish()
        finally:
            sink.close()
        self.incomplete = sink.incomplete


class _Unpacking(_Extraction):
    """The snapshot takes its layer as files. It may be `helped` where nothing was there before: then all can be taken back."""

    def __init__(self, request: Apply, *, helped: bool = True) -> None:
        super().__init__(request)
        self._helped = helped

    def _extract(self) -> None:
        request = self._request
        with target(request.mounts, request.scratch, apart=request.apart) as place:
            new = _is_empty(place.root)
            extractor = Extractor(
                place.root,
                NothingBelow() if new and isinstance(place.whiteouts, PlainWhiteouts) else place.whiteouts,
                request.limits,
                place.lower,
                apart=request.apart,
                helper=Helper() if new and self._helped else None,
            )
            # Without `sync` it is the snapshotter's commit that brings the files to disk.
            outlasting = not (request.sync or place.mounted)
            try:
                with Settling(place.root, wanted=request.settle, outlasting=outlasting) as settling:
                    self._feed(extractor, settling)
            except Refused:
                _empty(place.root)
                raise
            if request.sync:
                _sync(place.root)


class _Building(_Extraction):
    """The snapshot, with its files in `folder`, takes its layer as an image.

    The bytes of the archive are written to the image by the thread that hands them over: it has time, and this one reads.
    """

    def __init__(self, request: Apply, folder: str) -> None:
        super().__init__(request)
        self._folder = folder
        self._image = ExitStack()
        with ExitStack() as opening:
            self._fd = opening.enter_context(new_image(folder))
            (mount,) = request.mounts
            upper, lower = overlay_option(mount, "upperdir"), overlay_option(mount, "lowerdir")
            below = lower.split(":") if lower else ()
            self._sink = ImageSink(self._fd, upper or mount.source, request.limits, below)
            self._image = opening.pop_all()

    def put(self, buffer: memoryview, count: int) -> None:
        self._sink.append(buffer[:count])
        super().put(buffer, count)

    def stop(self) -> None:
        # Closed here, where nothing is written any more.
        with self._image:
            super().stop()

    def _extract(self) -> None:
        with Settling(self._folder, file=self._fd, wanted=self._request.settle) as settling:
            self._feed(self._sink, settling)
        if self._request.sync:
            os.fsync(self._fd)
        if self._complete:
            keep_image(self._fd, self._folder)


def _is_empty(root: str) -> bool:
    with os.scandir(root) as entries:
        return next(entries, None) is None


def _empty(root: str) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(fd):
            remove_entry(fd, os.fsencode(name))
    finally:
        os.close(fd)


def _sync(root: str) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)
