"""Proxies from the environment, connections that are kept, failures and their delays."""

from __future__ import annotations

import asyncio
import base64
import random
from email.utils import formatdate
from time import time

import aiohttp
import pytest

from moorage_api.errors import NotFound
from moorage_api.transfer import PullOptions
from mooraged.transfer.failures import HostFailure, of_status
from support.images import push
from support.registry import Registry
from support.transfer import World, spec


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


async def test_connections_are_kept(world: World, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    push(registry.address, "kept/image", "v1", spec("kept"))
    opened: list[object] = []
    connect = aiohttp.TCPConnector._create_connection

    async def counted(self: aiohttp.TCPConnector, *arguments: object) -> object:
        opened.append(arguments)
        return await connect(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", counted)
    for namespace in ("one", "two", "three"):
        await world.transfer.bind(namespace).pull(f"{registry.address}/kept/image:v1")
    assert len(opened) == 2, "one that found out that there is no TLS, and one for all requests"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0", 0.0), ("", 0.0), ("soon", 0.0), ("-5", 0.0), ("9" * 400, 999999999.0)],
)
def test_retry_after(value: str, seconds: float) -> None:
    failure = of_status(429, {"Retry-After": value}, b"")
    assert failure.transient
    assert failure.retry_after == seconds
    assert failure.delay(0) <= 60


def test_retry_after_a_date() -> None:
    failure = of_status(503, {"Retry-After": formatdate(time() + 100, usegmt=True)}, b"")
    assert 95 < failure.retry_after <= 100


def test_delays_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    failure = of_status(500, {}, b"")
    assert [failure.delay(attempt) for attempt in (0, 1, 2, 10, 100)] == [0.2, 0.4, 0.8, 10.0, 10.0]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"errors": 3}', b'{"errors": [3]}', b'{"errors": {}}', b"\xff", b"[" * 99999]
)
def test_error_bodies_of_any_kind(body: bytes) -> None:
    assert str(of_status(404, {}, body)) == "the answer was 404 Not Found"


def test_an_unknown_status() -> None:
    failure = of_status(599, {}, b"")
    assert isinstance(failure, HostFailure)
    assert "599" in str(failure)


async def test_a_proxy_is_used(world: World, registry: Registry, environment: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        login = [line for line in head.split("\r\n") if line.startswith("Proxy-Authorization")]
        asked.append((head.partition("\r\n")[0], login))
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        environment.setenv("HTTP_PROXY", f"http://anna:harbour@127.0.0.1:{port}")
        with pytest.raises(NotFound):
            await world.transfer.bind("default").pull("registry.invalid/a/b:c", PullOptions(plain_http=True))
    login = "Basic " + base64.b64encode(b"anna:harbour").decode()
    assert asked == [("HEAD http://registry.invalid/v2/a/b/manifests/c HTTP/1.1", [f"Proxy-Authorization: {login}"])]
