"""Where an image comes from: a repository on several hosts, asked one after the other until one gives what is wanted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
from yarl import URL

from moorage_api.oci.reference import Reference
from mooraged.transfer.client import Repository
from mooraged.transfer.failures import HostFailure, all_hosts
from mooraged.transfer.hosts import PULL, Host

ROUNDS_MAX = 5
"""How often all hosts are asked in a row without any progress."""

URLS_MAX = 16
"""URLs of one foreign layer that are tried."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Source:
    """One repository and its hosts, for the time of one transfer. A host that failed is asked after the others from
    then on, so that a dead mirror costs its time-out once and not for every blob."""

    def __init__(self, reference: Reference, hosts: list[Host], repository: Repository) -> None:
        self.reference = reference
        self._configured = tuple(hosts)
        self._order = list(hosts)
        self._repository = repository

    @asynccontextmanager
    async def request(
        self, host: Host, method: str, kind: str, name: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """See `Repository.request`."""
        async with self._repository.request(host, method, kind, name, headers) as response:
            yield response

    def foreign(self, urls: Sequence[str]) -> Source:
        """The places from which a manifest says that a blob can be had; each is asked without any credentials."""
        return _Foreign(self.reference, urls, self._repository)

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All of them, as they are configured."""
        return self._configured

    @property
    def repository(self) -> Repository:
        return self._repository

    async def ask(
        self,
        what: str,
        call: Callable[[Host], Awaitable[T]],
        capabilities: frozenset[str] = frozenset({PULL}),
        progress: Callable[[], int] = lambda: 0,
    ) -> T:
        """The result of `call` for the first host for which it succeeds.

        A host whose `HostFailure` is transient is asked again, after the others and with backoff, until `ROUNDS_MAX`
        rounds in a row brought no `progress` (any number that grows). The error names every host and why.
        """
        candidates = [host for host in self._order if capabilities <= host.capabilities]
        failures: dict[Host, HostFailure] = {}
        idle = 0
        while candidates and idle < ROUNDS_MAX:
            before = progress()
            waits: list[float] = []
            for host in tuple(candidates):
                try:
                    return await call(host)
                except HostFailure as failure:
                    _log.info("%s: %s: %s", what, host, failure)
                    failures[host] = failure
                    self._demote(host, failure)
                    if failure.transient:
                        waits.append(failure.delay(idle))
                    else:
                        candidates.remove(host)
            idle = 0 if progress() > before else idle + 1
            if candidates and idle < ROUNDS_MAX:
                await asyncio.sleep(min(waits))
        raise all_hosts(what, [(host, failures[host]) for host in self._configured if host in failures])

    def _demote(self, host: Host, failure: HostFailure) -> None:
        if not failure.status:
            self._order.remove(host)
            self._order.append(host)


class _Foreign(Source):
    """One blob at URLs of its own, which belong to no registry."""

    def __init__(self, reference: Reference, urls: Sequence[str], repository: Repository) -> None:
        self._urls = {
            Host(url.scheme, url.raw_authority, str(url), origin="the manifest"): url for url in _usable(urls)
        }
        super().__init__(reference, list(self._urls), repository)

    @asynccontextmanager
    async def request(
        self, host: Host, method: str, kind: str, name: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for the blob; `kind` and `name` are those of its descriptor."""
        async with self._repository.elsewhere(host, method, self._urls[host], headers) as response:
            yield response


def _usable(urls: Sequence[str]) -> Iterator[URL]:
    for text in urls[:URLS_MAX]:
        try:
            url = URL(text, encoded=True)
        except ValueError:
            continue
        if url.scheme in ("http", "https") and url.host and not url.user:
            yield url
