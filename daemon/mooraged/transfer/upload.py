"""One blob on its way to a registry, gone on with after any break.

Source: distribution-spec, "Pushing blobs": a session by POST, bytes by PATCH, the end by PUT.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import aiohttp
from yarl import URL

from moorage_api.content import ContentStore
from moorage_api.errors import DataLoss, Unavailable
from moorage_api.types import Descriptor
from mooraged.transfer.client import Repository
from mooraged.transfer.failures import HostFailure
from mooraged.transfer.hosts import Host
from mooraged.transfer.threads import Threads

_CHUNK = 2 << 20
_BYTES = {"Content-Type": "application/octet-stream"}
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")
_NOT_THERE = 404
_BEGIN_AGAIN = frozenset({404, 416})

Advance = Callable[[int], None]


class Upload:
    """`digest` of `descriptor` to one repository. `mounts`: other repositories of the registry that may have it."""

    def __init__(
        self,
        repository: Repository,
        threads: Threads,
        content: ContentStore,
        descriptor: Descriptor,
        mounts: Sequence[str],
        advance: Advance,
        progress_timeout: float,
    ) -> None:
        self._repository = repository
        self._threads = threads
        self._content = content
        self._descriptor = descriptor
        self._mounts = mounts
        self._advance = advance
        self._progress_timeout = progress_timeout
        self._sessions: dict[Host, URL] = {}
        self.arrived = 0
        """Bytes that a registry has said to have."""

    async def run(self, host: Host) -> str:
        """See that `host` has the blob; returns how: `already exists`, `mounted` or `complete`. `HostFailure`."""
        if host in self._sessions:
            await self._resume(host)
            return "complete"
        if await has_blob(self._repository, host, self._descriptor):
            return "already exists"
        for origin in self._mounts:
            if await self._mount(host, origin):
                return "mounted"
        if host not in self._sessions:
            await self._begin(host, {})
        await self._send(host, 0)
        return "complete"

    async def _mount(self, host: Host, origin: str) -> bool:
        """Ask the registry to take the blob from its repository `origin`. One that cannot has begun a session."""
        if host in self._sessions:
            return False
        query = {"mount": self._descriptor.digest, "from": origin}
        try:
            return await self._begin(host, query, more_scope=f"repository:{origin}:pull")
        except HostFailure as failure:
            if not failure.status or failure.transient:
                raise
            return False  # it may not be read there, or mounts are not known: the bytes are sent

    async def _begin(self, host: Host, query: Mapping[str, str], more_scope: str = "") -> bool:
        """Open a session; True where the blob is there without one."""
        url = self._repository.url(host, "blobs", "uploads/").update_query(query)
        headers = {"Content-Length": "0"}
        async with self._repository.exchange(host, "POST", url, headers, _nothing, more_scope=more_scope) as response:
            if response.status == 201 and query:
                return True
            self._sessions[host] = _location(response)
            return False

    async def _resume(self, host: Host) -> None:
        """Ask how much arrived, and send the rest; from the beginning where the session is gone."""
        try:
            async with self._repository.exchange(host, "GET", self._sessions[host], {}) as response:
                match = _RANGE.fullmatch(response.headers.get("Range", ""))
                self._sessions[host] = _location(response, self._sessions[host])
        except HostFailure as failure:
            if failure.status in _BEGIN_AGAIN:
                del self._sessions[host]
                failure.transient = True
            raise
        # `0-0` is also what a session says that has nothing; then the first byte is sent again, and refused by none.
        arrived = int(match[1]) + 1 if match and match[1] != "0" else 0
        if arrived > self._descriptor.size:
            del self._sessions[host]
            raise HostFailure(DataLoss(f"it has {arrived} bytes of {self._descriptor.size}"), transient=True)
        self.arrived = max(self.arrived, arrived)
        await self._send(host, arrived)

    async def _send(self, host: Host, start: int) -> None:
        size = self._descriptor.size
        try:
            if start < size:
                headers = {**_BYTES, "Content-Length": str(size - start), "Content-Range": f"{start}-{size - 1}"}
                self._sessions[host] = await self._patch(host, headers, start)
                self.arrived = size
            end = self._sessions[host].update_query({"digest": self._descriptor.digest})
            headers = {**_BYTES, "Content-Length": "0"}
            async with self._repository.exchange(host, "PUT", end, headers, _nothing):
                del self._sessions[host]
        except HostFailure as failure:
            if failure.status in _BEGIN_AGAIN:
                self._sessions.pop(host, None)
                failure.transient = True
            raise

    async def _patch(self, host: Host, headers: Mapping[str, str], start: int) -> URL:
        """Send the bytes from `start` on; returns where the session goes on. The time limit is between two pieces: a
        registry that takes none would otherwise never be noticed."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._progress_timeout) as limit:

                def moved() -> None:
                    if not limit.expired():
                        limit.reschedule(loop.time() + self._progress_timeout)

                url = self._sessions[host]
                async with self._repository.exchange(
                    host, "PATCH", url, headers, lambda: self._body(start, moved)
                ) as done:
                    return _location(done)
        except TimeoutError:
            raise HostFailure(Unavailable("it takes no bytes within the time limit"), transient=True) from None

    async def _body(self, start: int, moved: Callable[[], None]) -> AsyncIterator[bytes]:
        offset = start
        while offset < self._descriptor.size:
            piece = await self._threads.run(_piece, self._content, self._descriptor, offset)
            yield piece
            offset += len(piece)
            self._advance(offset)
            moved()


def _piece(content: ContentStore, descriptor: Descriptor, offset: int) -> bytes:
    """Some bytes of the blob, which is not kept open: nobody can say when a connection that hangs lets go of it."""
    with content.open(descriptor.digest) as reader:
        piece = reader.pread(min(_CHUNK, descriptor.size - offset), offset)
    if not piece:
        raise DataLoss(f"the store's {descriptor.digest} ends at byte {offset}")
    return piece


async def has_blob(repository: Repository, host: Host, descriptor: Descriptor) -> bool:
    """Whether the repository has the blob, of this size."""
    return await _has(repository, host, "blobs", descriptor)


async def has_manifest(repository: Repository, host: Host, descriptor: Descriptor) -> bool:
    """Whether the repository has the manifest or the index."""
    return await _has(repository, host, "manifests", descriptor, {"Accept": f"{descriptor.media_type}, */*;q=0.1"})


async def _has(
    repository: Repository, host: Host, kind: str, descriptor: Descriptor, headers: Mapping[str, str] | None = None
) -> bool:
    url = repository.url(host, kind, descriptor.digest)
    try:
        async with repository.exchange(host, "HEAD", url, headers or {}) as response:
            length = response.headers.get("Content-Length", "")
            return not length.isdecimal() or int(length) in (0, descriptor.size)
    except HostFailure as failure:
        if failure.status == _NOT_THERE:
            return False
        raise


def _location(response: aiohttp.ClientResponse, otherwise: URL | None = None) -> URL:
    text = response.headers.get("Location", "")
    if not text and otherwise is not None:
        return otherwise
    try:
        url = response.url.join(URL(text, encoded=True))
    except ValueError:
        url = URL()
    if not text or url.scheme not in ("http", "https") or not url.host:
        raise HostFailure(Unavailable("it begins an upload and does not say where"))
    if response.url.scheme == "https" and url.scheme == "http":
        raise HostFailure(Unavailable(f"it wants an upload that began over TLS in clear, on {url.host}"))
    return url


def _nothing() -> bytes:
    return b""
