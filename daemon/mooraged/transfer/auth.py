"""Logging in to registries: basic, bearer tokens with their scopes, identity tokens.

Source: the distribution project's token authentication (https://distribution.github.io/distribution/spec/auth/), RFC
7617, RFC 6749. Secrets are sent to the host that they are for, and to the token server that this host names; never in
clear to a token server when the registry itself speaks TLS; never to a log.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from yarl import URL

from moorage_api.errors import PermissionDenied, Unauthenticated
from moorage_api.transfer import Credentials, CredentialSource
from mooraged.transfer.challenges import Challenge
from mooraged.transfer.failures import HostFailure
from mooraged.transfer.hosts import Host

CLIENT_ID = "moorage"
LIFETIME = 60.0
"""Seconds that a token lives whose server does not say (the specification's default)."""
MARGIN = 5.0
"""Seconds before its end at which a token is renewed."""
TOKENS_MAX = 256


class TokenRequest(Protocol):
    """Sends a request to a token server with the host's TLS settings; returns the body of a good answer, bounded."""

    def __call__(
        self, host: Host, method: str, url: URL, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> Awaitable[bytes]: ...


class _TokenAnswer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: float = LIFETIME


@dataclass(frozen=True, slots=True)
class _TokenKey:
    realm: str
    service: str
    scopes: tuple[str, ...]
    credentials: Credentials


class TokenCache:
    """The tokens of the whole daemon. Credentials are part of the key, so no caller gets another's token."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens: OrderedDict[_TokenKey, tuple[str, float]] = OrderedDict()

    def get(self, key: _TokenKey) -> str:
        """A token that is still good, or nothing."""
        token, end = self._tokens.get(key, ("", 0.0))
        return token if self._clock() < end else ""

    def put(self, key: _TokenKey, token: str, lifetime: float) -> None:
        self._tokens[key] = (token, self._clock() + max(lifetime - MARGIN, 0.0))
        self._tokens.move_to_end(key)
        while len(self._tokens) > TOKENS_MAX:
            self._tokens.popitem(last=False)

    def drop(self, key: _TokenKey) -> None:
        self._tokens.pop(key, None)


@dataclass(frozen=True, slots=True)
class LoginDescription:
    """How a host was logged in to, for people and without secrets: what it `wanted`, and what was `used`."""

    wanted: str = ""
    used: str = "none"


@dataclass
class _Login:
    """How one host wants it, known from its first 401 on."""

    credentials: Credentials
    scheme: str = ""
    realm: str = ""
    service: str = ""
    scopes: tuple[str, ...] = ()
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Authorizer:
    """Logs in to the hosts of one transfer, each as it asks."""

    def __init__(self, request: TokenRequest, tokens: TokenCache, credentials: CredentialSource | None = None) -> None:
        self._request = request
        self._tokens = tokens
        self._credentials = credentials
        self._logins: dict[str, _Login] = {}

    async def header(self, host: Host, scope: str) -> str:
        """The `Authorization` for `host`, or nothing where it has not asked for one. `scope`: one or more, with spaces."""
        login = self._logins.get(host.address)
        if login is None:
            return ""
        match login.scheme:
            case "given":
                return login.credentials.header
            case "basic":
                return _basic(login.credentials)
            case "bearer":
                return await self._bearer(host, login, scope)
            case _:
                return ""

    async def answer(self, host: Host, challenges: Sequence[Challenge], scope: str, sent: str) -> None:
        """Learn from a 401 how to log in, so that the next `header` does; `sent` is what was refused.

        `HostFailure` where there is no way: nothing to log in with, or the same was refused before.
        """
        login = await self._login(host)
        by_scheme = {challenge.scheme: challenge for challenge in reversed(challenges)}
        bearer, basic = by_scheme.get("bearer"), by_scheme.get("basic")
        if login.credentials.header:
            if sent:
                raise HostFailure(Unauthenticated("it does not take the token given"), status=401)
            login.scheme = "given"
        elif bearer is not None:
            self._learn_bearer(host, login, bearer)
            if sent.startswith("Bearer "):
                self._tokens.drop(_key(login, scope))
        elif basic is not None:
            self._learn_basic(login, sent)
        else:
            asked = ", ".join(sorted(by_scheme)) or "nothing"
            raise HostFailure(Unauthenticated(f"it asks for a login of a kind that is not known ({asked})"), status=401)

    def describe(self, host: Host) -> LoginDescription:
        """What is known of the login to `host`."""
        login = self._logins.get(host.address)
        if login is None:
            return LoginDescription()
        given = login.credentials
        if given.header:
            used = "client: a token"
        elif given.username:
            used = f"client: user {given.username}"
        else:
            used = "client: an identity token" if given.secret else "anonymous"
        wanted = {"given": "the token given", "basic": "user name and password"}.get(login.scheme, "a login")
        if login.scheme == "bearer":
            wanted = f"a token of {login.realm}" + (f" for {login.service}" if login.service else "")
        return LoginDescription(wanted, used)

    async def _login(self, host: Host) -> _Login:
        if host.address not in self._logins:
            found = await self._credentials(host.address) if self._credentials else None
            self._logins.setdefault(host.address, _Login(found or Credentials()))
        return self._logins[host.address]

    def _learn_bearer(self, host: Host, login: _Login, challenge: Challenge) -> None:
        realm = challenge.parameters.get("realm", "")
        if not realm.startswith(("https://", "http://")):
            raise HostFailure(Unauthenticated("it names no token server (realm)"), status=401)
        if host.scheme == "https" and realm.startswith("http://") and login.credentials.secret:
            raise HostFailure(PermissionDenied("it wants the password sent in clear to its token server"), status=401)
        login.scheme, login.realm = "bearer", realm
        login.service = challenge.parameters.get("service", "")
        login.scopes = tuple(challenge.parameters.get("scope", "").split())

    def _learn_basic(self, login: _Login, sent: str) -> None:
        if not login.credentials.username or not login.credentials.secret:
            raise HostFailure(Unauthenticated("it wants a user name and a password"), status=401)
        if sent.startswith("Basic "):
            raise HostFailure(Unauthenticated("it does not take this user name and password"), status=401)
        login.scheme = "basic"

    async def _bearer(self, host: Host, login: _Login, scope: str) -> str:
        async with login.lock:
            key = _key(login, scope)
            token = self._tokens.get(key)
            if not token:
                answer = await self._fetch_token(host, key)
                token = answer.token or answer.access_token
                self._tokens.put(key, token, answer.expires_in)
        return f"Bearer {token}"

    async def _fetch_token(self, host: Host, key: _TokenKey) -> _TokenAnswer:
        method, url, headers, form = _token_request(key)
        try:
            body = await self._request(host, method, url, headers, form)
            answer = msgspec.json.decode(body, type=_TokenAnswer)
        except HostFailure as failure:
            kind = type(failure.error)
            failure.error = kind(f"the token server {url.host}: {failure.error.message}")
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise HostFailure(Unauthenticated(f"the token server {url.host} gave no token")) from None
        token = answer.token or answer.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise HostFailure(Unauthenticated(f"the token server {url.host} gave no token"))
        return answer


def _key(login: _Login, scope: str) -> _TokenKey:
    scopes = tuple(sorted({*login.scopes, *scope.split()}))
    return _TokenKey(login.realm, login.service, scopes, login.credentials)


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.secret}"
    return "Basic " + base64.b64encode(pair.encode()).decode("ascii")


def _token_request(key: _TokenKey) -> tuple[str, URL, Mapping[str, str], Mapping[str, str] | None]:
    """An identity token is exchanged by POST (OAuth 2), all else asked for by GET, which every token server knows."""
    url = URL(key.realm)
    service = {"service": key.service} if key.service else {}
    if key.credentials.secret and not key.credentials.username:
        form = {
            **service,
            "grant_type": "refresh_token",
            "refresh_token": key.credentials.secret,
            "client_id": CLIENT_ID,
            "scope": " ".join(key.scopes),
        }
        return "POST", url, {}, form
    query = [*service.items(), *(("scope", scope) for scope in key.scopes)]
    headers = {"Authorization": _basic(key.credentials)} if key.credentials.username else {}
    return "GET", url.update_query([*url.query.items(), *query]), headers, None
