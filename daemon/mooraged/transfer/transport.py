"""HTTP connections: one session for the daemon, TLS per host, proxies from the environment.

A request here is one request: no redirects, no login, no second try.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from moorage_api.errors import FailedPrecondition
from mooraged.transfer.failures import HostFailure
from mooraged.transfer.hosts import Tls
from mooraged.transfer.proxies import proxy_for

_READ_BUFFER = 256 << 10
_HEADER_MAX = 64 << 10
_CONTEXTS_MAX = 32


class Transport:
    """The session, made at its first use. `progress_timeout`: seconds without a byte after which a request fails."""

    def __init__(self, progress_timeout: float, user_agent: str = "moorage") -> None:
        self._progress_timeout = progress_timeout
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._contexts: OrderedDict[tuple[Tls, tuple[int, ...]], ssl.SSLContext] = OrderedDict()

    async def send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        tls: Tls,
        dial_timeout: float,
        data: Mapping[str, str] | AsyncIterator[bytes] | bytes | None = None,
    ) -> aiohttp.ClientResponse:
        """The answer, whose body is not read yet: the caller closes it. `data` is a form, or a body.

        Raises what aiohttp raises, and `HostFailure` for TLS settings that cannot be used.
        """
        proxy, proxy_headers = proxy_for(url)
        sent = CIMultiDict(headers)
        sent.setdefault("User-Agent", self._user_agent)
        sent.setdefault("Accept-Encoding", "identity")
        if url.scheme == "http":
            # Here the request itself goes to the proxy; over TLS only the CONNECT before it does.
            sent.update(proxy_headers)
        return await self._open().request(
            method,
            url,
            headers=sent,
            data=data,
            allow_redirects=False,
            ssl=await self._context(tls) if url.scheme == "https" else True,
            proxy=proxy,
            proxy_headers=proxy_headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=dial_timeout, sock_read=self._progress_timeout),
        )

    async def close(self) -> None:
        """Close all connections; a later request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                requote_redirect_url=False,
                read_bufsize=_READ_BUFFER,
                max_line_size=_HEADER_MAX,
                max_field_size=_HEADER_MAX,
            )
        return self._session

    async def _context(self, tls: Tls) -> ssl.SSLContext:
        """Contexts are costly to make, and connections are shared only by requests of the same one; a changed file
        makes a new one."""
        files = (*tls.ca, *(name for pair in tls.client for name in pair if name))
        try:
            key = (tls, tuple(os.stat(name).st_mtime_ns for name in files))
            known = self._contexts.get(key)
            context = known if known is not None else await asyncio.to_thread(_make_context, tls)
        except (OSError, ssl.SSLError) as error:
            raise HostFailure(FailedPrecondition(f"its TLS configuration cannot be used: {error}")) from error
        self._contexts[key] = context
        self._contexts.move_to_end(key)
        while len(self._contexts) > _CONTEXTS_MAX:
            self._contexts.popitem(last=False)
        return context


def _make_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for authority in tls.ca:
        context.load_verify_locations(authority)
    for certificate, key in tls.client:
        context.load_cert_chain(certificate, key or None)
    return context
