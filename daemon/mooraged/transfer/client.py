"""A client of the distribution API (https://github.com/opencontainers/distribution-spec): one request to one host, with
login and redirects. Which host to ask, and whether to try again, is decided above.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from moorage_api.errors import PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable
from moorage_api.transfer import CredentialSource
from mooraged.transfer.auth import Authorizer, LoginDescription, TokenCache
from mooraged.transfer.challenges import parse_challenges
from mooraged.transfer.failures import HostFailure, of_exception, of_status
from mooraged.transfer.hosts import Host
from mooraged.transfer.transport import Transport

REDIRECTS_MAX = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
LOGINS_MAX = 2
ERROR_BODY_MAX = 16 << 10
TOKEN_BODY_MAX = 1 << 20

_KEEP_METHOD = frozenset({307, 308})
_PULL, _PUSH = "pull", "pull,push"

Body = Callable[[], AsyncIterator[bytes] | bytes]
"""Gives a request's body, anew for each time that it is sent."""

_NETWORK_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


class Repository:
    """The repository `path` of the registry `domain`, on whichever host serves it."""

    def __init__(
        self, client: RegistryClient, domain: str, path: str, credentials: CredentialSource | None, actions: str = _PULL
    ) -> None:
        self._client = client
        self._domain = domain
        self._path = path
        self._scope = f"repository:{path}:{actions}"
        self._authorizer = Authorizer(client.request_token, client.tokens, credentials)

    @asynccontextmanager
    async def request(
        self, host: Host, method: str, kind: str, name: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask `host` for `<kind>/<name>` (kind: `manifests`, `blobs` or `referrers`); the answer is a success.

        `HostFailure` for anything else. The body is the caller's to read, within this context.
        """
        async with self.exchange(host, method, self.url(host, kind, name), headers) as response:
            yield response

    def url(self, host: Host, kind: str, name: str) -> URL:
        """Where `host` has `<kind>/<name>` of this repository."""
        url = f"{self._client.scheme_of(host)}://{host.address}{host.path}/{self._path}/{kind}/{name}"
        return URL(url).with_query({"ns": self._domain} if host.is_mirror_of(self._domain) else {})

    def login(self, host: Host) -> LoginDescription:
        """How `host` has been logged in to so far."""
        return self._authorizer.describe(host)

    @asynccontextmanager
    async def exchange(
        self,
        host: Host,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: Body | None = None,
        *,
        more_scope: str = "",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """As `request`, with any URL and a body. `more_scope` is what the token must allow besides."""
        scope = f"{self._scope} {more_scope}".strip()
        async with _succeeded(await self._log_in(host, method, url, headers, body, scope)) as response:
            yield response

    @asynccontextmanager
    async def elsewhere(
        self, host: Host, method: str, url: URL, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for a URL that a manifest names: nobody logs in there. Errors as `request`."""
        async with _succeeded(await self._client.follow(host, method, url, headers, "")) as response:
            yield response

    async def _log_in(
        self, host: Host, method: str, url: URL, headers: Mapping[str, str], body: Body | None, scope: str
    ) -> aiohttp.ClientResponse:
        """Send it, and again after each 401 that can be answered."""
        for attempt in range(LOGINS_MAX + 1):
            authorization = await self._authorizer.header(host, scope)
            response = await self._client.follow(host, method, url, headers, authorization, body)
            if response.status != HTTPStatus.UNAUTHORIZED:
                return response
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            elsewhere = response.url.authority != url.authority
            failure = of_status(response.status, response.headers, await _read(response, ERROR_BODY_MAX))
            response.close()
            if elsewhere or attempt == LOGINS_MAX:
                raise failure
            await self._authorizer.answer(host, challenges, scope, authorization)
        raise HostFailure(Unauthenticated("no login worked"), status=HTTPStatus.UNAUTHORIZED)


class RegistryClient:
    """Requests to hosts, for all transfers of the daemon: connections and tokens are shared."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._plain: set[str] = set()
        self.tokens = TokenCache()

    def repository(
        self, domain: str, path: str, credentials: CredentialSource | None = None, *, push: bool = False
    ) -> Repository:
        """With `push`, tokens are asked for that allow it."""
        return Repository(self, domain, path, credentials, _PUSH if push else _PULL)

    def scheme_of(self, host: Host) -> str:
        """What to try now: hosts on which plain HTTP is only a guess are asked over TLS until they refuse it."""
        return "https" if host.tries_https_first and host.address not in self._plain else host.scheme

    async def follow(
        self,
        host: Host,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        authorization: str,
        body: Body | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request to `host` and follow redirects; the configured headers and `authorization` stay with `host`.

        The caller closes the answer, whatever its status. `HostFailure` where there is none.
        """
        private = CIMultiDict([*headers.items(), *host.headers])
        if authorization:
            private["Authorization"] = authorization
        if host.tries_https_first and url.authority == host.address:
            # The URL may have been made before the host was known to speak plain HTTP.
            url = url.with_scheme(self.scheme_of(host))
        try:
            return await self._follow(host, method, url, headers, private, body)
        except HostFailure as failure:
            if not failure.not_tls or not host.tries_https_first:
                raise
        self._plain.add(host.address)
        return await self._follow(host, method, url.with_scheme("http"), headers, private, body)

    async def _follow(
        self,
        host: Host,
        method: str,
        url: URL,
        public: Mapping[str, str],
        private: Mapping[str, str],
        body: Body | None,
    ) -> aiohttp.ClientResponse:
        origin = URL(f"{self.scheme_of(host)}://{host.address}").origin()
        for _ in range(REDIRECTS_MAX + 1):
            own = url.origin() == origin
            sent = private if own else public
            try:
                response = await self._transport.send(
                    method, url, sent, host.tls, host.dial_timeout, body() if body else None
                )
            except _NETWORK_ERRORS as error:
                failure = of_exception(error)
                failure.not_tls = own and failure.not_tls
                raise failure from error
            if response.status not in (_REDIRECTS if body is None else _KEEP_METHOD):
                return response
            location = response.headers.get("Location", "")
            response.close()
            url = _redirected(url, location)
        raise HostFailure(Unavailable(f"it redirects more than {REDIRECTS_MAX} times"))

    async def request_token(
        self, host: Host, method: str, url: URL, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> bytes:
        """One request to the token server that `host` named (see `auth.TokenRequest`); redirects are refused."""
        try:
            response = await self._transport.send(method, url, headers, host.tls, host.dial_timeout, form)
        except _NETWORK_ERRORS as error:
            raise of_exception(error) from error
        try:
            body = await _read(response, TOKEN_BODY_MAX)
        finally:
            response.close()
        if response.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise of_status(response.status, response.headers, body)
        return body


async def read_body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole body; `HostFailure` where the connection breaks, or where it has more than `most` bytes."""
    try:
        body = await response.content.read(most + 1)
        while len(body) <= most and (more := await response.content.read(most + 1 - len(body))):
            body += more
    except _NETWORK_ERRORS as error:
        raise of_exception(error) from error
    if len(body) > most:
        raise HostFailure(ResourceExhausted(f"the answer has more than {most} bytes"))
    return body


@asynccontextmanager
async def _succeeded(response: aiohttp.ClientResponse) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer, closed in the end; `HostFailure` for one that is no success."""
    try:
        if response.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise of_status(response.status, response.headers, await _read(response, ERROR_BODY_MAX))
        yield response
    finally:
        response.close()


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    try:
        return await read_body(response, most)
    except HostFailure:
        return b""


def _redirected(url: URL, location: str) -> URL:
    try:
        target = url.join(URL(location, encoded=True))
    except ValueError as error:
        raise HostFailure(Unavailable("it redirects to a malformed address")) from error
    if not location or target.scheme not in ("http", "https") or not target.host:
        raise HostFailure(Unavailable("it redirects to nowhere"))
    if url.scheme == "https" and target.scheme == "http":
        raise HostFailure(PermissionDenied(f"it redirects from TLS to plain HTTP on {target.host}"))
    return target
