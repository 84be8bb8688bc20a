"""Logging in, as a conversation: challenges in, headers out; the token server is a function here."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from yarl import URL

from moorage_api.errors import MoorageError, PermissionDenied, Unauthenticated
from moorage_api.transfer import Credentials
from mooraged.transfer.auth import Authorizer, TokenCache
from mooraged.transfer.challenges import Challenge
from mooraged.transfer.failures import HostFailure
from mooraged.transfer.hosts import Host

HOST = Host("https", "registry.example")
SCOPE = "repository:a/b:pull"
BASIC = [Challenge("basic", {"realm": "x"})]
BEARER = [Challenge("bearer", {"realm": "https://auth.example/token?account=x", "service": "registry"})]
PASSWORD = Credentials("anna", "secret")


class TokenServer:
    """Answers with numbered tokens and remembers what it was asked."""

    def __init__(self, answer: Mapping[str, Any] | bytes | None = None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, URL, Mapping[str, str], Mapping[str, str] | None]] = []

    async def __call__(
        self, host: Host, method: str, url: URL, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> bytes:
        self.asked.append((method, url, headers, form))
        await asyncio.sleep(0)
        if isinstance(self.answer, bytes):
            return self.answer
        return json.dumps(self.answer or {"token": f"t{len(self.asked)}", "expires_in": 300}).encode()


def authorizer(
    server: TokenServer, credentials: Credentials | None = None, cache: TokenCache | None = None
) -> Authorizer:
    async def source(host: str) -> Credentials | None:
        assert host == HOST.address
        return credentials

    return Authorizer(server, cache or TokenCache(), source)


async def refused(attempt: Authorizer, challenges: list[Challenge], sent: str, host: Host = HOST) -> MoorageError:
    with pytest.raises(HostFailure) as caught:
        await attempt.answer(host, challenges, SCOPE, sent)
    return caught.value.error


async def test_nothing_is_sent_before_it_is_asked_for() -> None:
    asked: list[str] = []

    async def source(host: str) -> Credentials | None:
        asked.append(host)
        return PASSWORD

    attempt = Authorizer(TokenServer(), TokenCache(), source)
    assert await attempt.header(HOST, SCOPE) == ""
    assert asked == []
    await attempt.answer(HOST, BASIC, SCOPE, "")
    await attempt.header(HOST, SCOPE)
    assert asked == [HOST.address]


async def test_basic() -> None:
    attempt = authorizer(TokenServer(), PASSWORD)
    await attempt.answer(HOST, BASIC, SCOPE, "")
    header = await attempt.header(HOST, SCOPE)
    assert header == "Basic " + base64.b64encode(b"anna:secret").decode()
    assert isinstance(await refused(attempt, BASIC, header), Unauthenticated)


@pytest.mark.parametrize("credentials", [None, Credentials("anna"), Credentials("", "identity")])
async def test_basic_needs_a_name_and_a_password(credentials: Credentials | None) -> None:
    error = await refused(authorizer(TokenServer(), credentials), BASIC, "")
    assert "user name and a password" in str(error)


async def test_anonymous_bearer() -> None:
    server = TokenServer()
    attempt = authorizer(server)
    await attempt.answer(HOST, BEARER, SCOPE, "")
    assert await attempt.header(HOST, SCOPE) == "Bearer t1"
    ((method, url, headers, form),) = server.asked
    assert (method, dict(headers), form) == ("GET", {}, None)
    assert dict(url.query) == {"account": "x", "service": "registry", "scope": SCOPE}


async def test_bearer_with_password_asks_with_basic() -> None:
    server = TokenServer({"access_token": "acc"})
    attempt = authorizer(server, PASSWORD)
    await attempt.answer(HOST, [*BASIC, *BEARER], SCOPE, "")
    assert await attempt.header(HOST, SCOPE) == "Bearer acc"
    assert server.asked[0][2]["Authorization"].startswith("Basic ")


async def test_identity_token_is_exchanged() -> None:
    server = TokenServer()
    attempt = authorizer(server, Credentials(secret="identity"))
    await attempt.answer(HOST, BEARER, SCOPE, "")
    assert await attempt.header(HOST, SCOPE) == "Bearer t1"
    method, _, headers, form = server.asked[0]
    assert (method, dict(headers)) == ("POST", {})
    assert form is not None
    assert form["grant_type"] == "refresh_token"
    assert form["refresh_token"] == "identity"
    assert form["scope"] == SCOPE


async def test_a_whole_header_is_sent_as_given() -> None:
    attempt = authorizer(TokenServer(), Credentials(header="Bearer given"))
    await attempt.answer(HOST, BEARER, SCOPE, "")
    assert await attempt.header(HOST, SCOPE) == "Bearer given"
    assert isinstance(await refused(attempt, BEARER, "Bearer given"), Unauthenticated)


async def test_tokens_are_shared_only_by_the_same_credentials() -> None:
    server, cache = TokenServer(), TokenCache()
    headers = []
    for credentials in (PASSWORD, PASSWORD, None, Credentials("anna", "other")):
        attempt = authorizer(server, credentials, cache)
        await attempt.answer(HOST, BEARER, SCOPE, "")
        headers.append(await attempt.header(HOST, SCOPE))
    assert headers == ["Bearer t1", "Bearer t1", "Bearer t2", "Bearer t3"]


async def test_tokens_are_for_one_scope_and_renewed_before_their_end() -> None:
    now = 0.0
    server = TokenServer()
    attempt = authorizer(server, None, TokenCache(lambda: now))
    await attempt.answer(HOST, BEARER, SCOPE, "")
    assert await attempt.header(HOST, SCOPE) == "Bearer t1"
    assert await attempt.header(HOST, "repository:other:pull") == "Bearer t2"
    now = 290
    assert await attempt.header(HOST, SCOPE) == "Bearer t1"
    now = 296
    assert await attempt.header(HOST, SCOPE) == "Bearer t3"


async def test_a_refused_token_is_renewed() -> None:
    server = TokenServer()
    attempt = authorizer(server)
    await attempt.answer(HOST, BEARER, SCOPE, "")
    old = await attempt.header(HOST, SCOPE)
    await attempt.answer(HOST, BEARER, SCOPE, old)
    assert await attempt.header(HOST, SCOPE) == "Bearer t2"


async def test_one_request_for_many_at_once() -> None:
    server = TokenServer()
    attempt = authorizer(server)
    await attempt.answer(HOST, BEARER, SCOPE, "")
    assert set(await asyncio.gather(*(attempt.header(HOST, SCOPE) for _ in range(10)))) == {"Bearer t1"}
    assert len(server.asked) == 1


async def test_the_cache_is_bounded() -> None:
    cache = TokenCache()
    attempt = authorizer(TokenServer(), None, cache)
    await attempt.answer(HOST, BEARER, SCOPE, "")
    for number in range(300):
        await attempt.header(HOST, f"repository:{number}:pull")
    assert len(cache._tokens) == 256


async def test_a_password_never_goes_to_a_plain_token_server() -> None:
    plain = [Challenge("bearer", {"realm": "http://auth.example/token"})]
    assert isinstance(await refused(authorizer(TokenServer(), PASSWORD), plain, ""), PermissionDenied)
    plain_host = Host("http", HOST.address)
    await authorizer(TokenServer(), PASSWORD).answer(plain_host, plain, SCOPE, "")


@pytest.mark.parametrize(
    "challenges",
    [[], [Challenge("digest", {})], [Challenge("bearer", {})], [Challenge("bearer", {"realm": "file:///x"})]],
)
async def test_what_cannot_be_answered(challenges: list[Challenge]) -> None:
    assert isinstance(await refused(authorizer(TokenServer(), PASSWORD), challenges, ""), Unauthenticated)


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b'{"token": 3}', b'{"token": ""}', b'{"token": "a\\r\\nX-Evil: b"}', b'{"token": "\xc3\xa9"}'],
)
async def test_a_token_server_that_gives_none(answer: bytes) -> None:
    attempt = authorizer(TokenServer(answer))
    await attempt.answer(HOST, BEARER, SCOPE, "")
    with pytest.raises(HostFailure, match=r"token server auth\.example gave no token"):
        await attempt.header(HOST, SCOPE)
