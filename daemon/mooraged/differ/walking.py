"""The differ that the daemon has: `moorage_api.differ.Differ` over worker processes."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from moorage_api.content import BlobReader, ContentStore, Info, Writer
from moorage_api.differ import Arriving, Extracted, Progress
from moorage_api.errors import AlreadyExists, InvalidArgument, MoorageError, NotFound, Unimplemented
from moorage_api.mounts import Mount
from moorage_api.types import Descriptor, Labels
from mooraged.differ import media
from mooraged.differ.limits import Limits
from mooraged.differ.messages import Apply, Compare
from mooraged.differ.pool import WorkerPool

UNCOMPRESSED = "containerd.io/uncompressed"
_COPY_CHUNK = 1 << 20


class WalkingDiffer:
    """Layers in and out of snapshots. `scratch` is a folder of its own, for mount points and copies that last a call; with
    `settle` the files of large layers are on their way to the disk while the layer is still extracted."""

    def __init__(self, pool: WorkerPool, limits: Limits, scratch: Path, *, settle: bool = True) -> None:
        self._pool = pool
        self._limits = limits
        self._scratch = str(scratch)
        self._settle = settle

    def apply(
        self, content: ContentStore, layer: Descriptor, mounts: Sequence[Mount], *, sync: bool = False
    ) -> Descriptor:
        with self._blob(content, layer) as (path, size):
            return self._extract(layer, self._request(path, size, mounts, sync=sync)).layer

    def extract(
        self,
        content: ContentStore,
        layer: Descriptor,
        mounts: Sequence[Mount],
        *,
        arriving: Arriving | None = None,
        apart: bool = False,
        progress: Progress | None = None,
    ) -> Extracted:
        """See `moorage_api.differ.Extracts.extract`."""
        if arriving is not None:
            request = self._request(str(arriving.path), layer.size, mounts, apart=apart, grows=True)
            return self._extract(layer, request, progress, arriving)
        with self._blob(content, layer) as (path, size):
            return self._extract(layer, self._request(path, size, mounts, apart=apart), progress)

    def _request(
        self,
        path: str,
        size: int,
        mounts: Sequence[Mount],
        *,
        sync: bool = False,
        apart: bool = False,
        grows: bool = False,
    ) -> Apply:
        return Apply(path, list(mounts), self._limits, self._scratch, size, sync, apart, grows, self._settle)

    def _extract(
        self, layer: Descriptor, request: Apply, progress: Progress | None = None, arriving: Arriving | None = None
    ) -> Extracted:
        media.check_readable(layer.media_type)
        if not request.mounts:
            raise InvalidArgument(f"layer {layer.digest}: there are no mounts to apply it to")
        try:
            done = self._pool.call(request, progress=progress, arriving=arriving)
        except MoorageError as error:
            raise type(error)(f"layer {layer.digest}: {error}") from error
        return Extracted(Descriptor(media.OCI_LAYER, done.digest, done.size), done.incomplete)

    def compare(
        self,
        content: ContentStore,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Labels | None = None,
    ) -> Descriptor:
        chosen = media_type or f"{media.OCI_LAYER}+gzip"
        request = Compare(list(lower), list(upper), media.compression_for(chosen), self._scratch)
        own_ref = "" if ref else f"diff-{time.time_ns()}-{secrets.token_hex(4)}"
        writer = content.writer(ref or own_ref)
        try:
            with writer:
                if writer.status().offset:
                    writer.truncate(0)
                done = self._pool.call(request, writer.write)
                digest, size = self._commit(content, writer, {**(labels or {}), UNCOMPRESSED: done.digest})
        except BaseException:
            if own_ref:
                _abort(content, own_ref)
            raise
        return Descriptor(chosen, digest, size, {UNCOMPRESSED: done.digest})

    def _commit(self, content: ContentStore, writer: Writer, labels: Labels) -> tuple[str, int]:
        """Make the ingest a blob; one that is there already gets the label that it may lack."""
        digest = writer.digest()
        try:
            info = writer.commit(labels=labels)
        except AlreadyExists:
            info = content.info(digest)
            if UNCOMPRESSED not in info.labels:
                labelled = Info(digest, info.size, labels={UNCOMPRESSED: labels[UNCOMPRESSED]})
                # A backend without the metadata layer may keep no labels.
                with suppress(Unimplemented):
                    info = content.update(labelled, [f"labels.{UNCOMPRESSED}"])
        return info.digest, info.size

    @contextmanager
    def _blob(self, content: ContentStore, layer: Descriptor) -> Iterator[tuple[str, int]]:
        """A file that holds the layer's blob, and its size."""
        media.check_readable(layer.media_type)
        with content.open(layer.digest) as blob, self._file(blob) as path:
            yield path, blob.size

    @contextmanager
    def _file(self, blob: BlobReader) -> Iterator[str]:
        """A file that holds the blob: its own, or, for a store that has none on this machine, a copy."""
        if blob.path is not None:
            yield str(blob.path)
            return
        with tempfile.NamedTemporaryFile(dir=self._scratch, prefix="blob-") as copy:
            offset = 0
            while offset < blob.size:
                chunk = blob.pread(min(_COPY_CHUNK, blob.size - offset), offset)
                copy.write(chunk)
                offset += len(chunk)
            copy.flush()
            yield copy.name


def _abort(content: ContentStore, ref: str) -> None:
    try:
        content.abort(ref)
    except NotFound:
        return


def clear_scratch(scratch: Path) -> None:
    """Remove what calls of a daemon that was killed left behind: copies, and mount points with nothing mounted."""
    for entry in os.scandir(scratch):
        if entry.is_dir(follow_symlinks=False):
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
