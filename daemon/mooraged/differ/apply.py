"""Applies a layer, within a worker process: one thread inflates and hashes, another extracts."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from dataclasses import dataclass

from moorage_api.linux import syscalls
from mooraged.differ.compression import decompressed
from mooraged.differ.extract import Extractor
from mooraged.differ.growing import GrowingFile, Growth
from mooraged.differ.limits import Limits
from mooraged.differ.messages import Apply
from mooraged.differ.tar.events import LimitError
from mooraged.differ.tar.reader import Reader
from mooraged.differ.targets import target

_CHUNKS_AHEAD = 8


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
        extraction = _Extraction(self._request)
        extraction.start()
        digest = hashlib.sha256()
        try:
            with open(self._request.path, "rb", buffering=0) as file:
                size = self._request.size
                ceiling = _ceiling(size, self._request.limits)
                source = GrowingFile(file, size, self._growth) if self._request.grows else file
                for chunk in decompressed(source):
                    self.size += len(chunk)
                    if self.size > ceiling:
                        raise LimitError(f"more than {ceiling} bytes uncompressed")
                    digest.update(chunk)
                    if not extraction.put(chunk):
                        break
                else:
                    extraction.complete()
        finally:
            extraction.stop()
        return Applied(f"sha256:{digest.hexdigest()}", self.size, extraction.incomplete)


def _ceiling(compressed: int, limits: Limits) -> int:
    """How large the layer may be: absolutely, and in proportion to its compressed size."""
    return min(limits.max_size, max(limits.ratio_floor, compressed * limits.max_ratio))


class _Extraction(threading.Thread):
    """The thread that reads the archive and makes its files. Chunks come to it through a short queue."""

    def __init__(self, request: Apply) -> None:
        super().__init__(name="extract")
        self._request = request
        self.incomplete = False
        self._chunks: queue.Queue[bytes | None] = queue.Queue(_CHUNKS_AHEAD)
        self._ended = threading.Event()
        self._complete = False
        self._error: BaseException | None = None

    def put(self, chunk: bytes | None) -> bool:
        """Hand over the next chunk, None for the end; False when the extraction has failed and wants no more."""
        while not self._ended.is_set():
            try:
                self._chunks.put(chunk, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def complete(self) -> None:
        """Say that every chunk was handed over."""
        self._complete = True
        self.put(None)

    def stop(self) -> None:
        """Wait for the end, and give up what is not complete. Raises what the extraction failed with."""
        if not self._complete:
            self.put(None)
        self.join()
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        try:
            request = self._request
            with target(request.mounts, request.scratch, apart=request.apart) as place:
                extractor = Extractor(place.root, place.whiteouts, request.limits, place.lower)
                try:
                    self._extract(extractor)
                finally:
                    extractor.close()
                self.incomplete = extractor.incomplete
                if request.sync:
                    _sync(place.root)
        except BaseException as error:  # noqa: BLE001 (raised again by stop, in the thread that waits)
            self._error = error
        finally:
            self._ended.set()

    def _extract(self, extractor: Extractor) -> None:
        reader = Reader()
        take = extractor.take
        while (chunk := self._chunks.get()) is not None:
            for event in reader.receive(chunk):
                take(event)
        if self._complete:
            reader.finish()
            extractor.finish()


def _sync(root: str) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)
