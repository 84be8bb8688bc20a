"""Pushes to a real registry: what is sent, what is not, what happens when it breaks, and who may."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web

from moorage_api.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from moorage_api.oci import image as documents
from moorage_api.transfer import Credentials, ImportOptions, NameRule, Progress, PullOptions, PushOptions
from moorage_api.types import Platform
from support.archives import oci_layout, pieces, tar_of
from support.faultproxy import Fault, FaultProxy
from support.images import ImageSpec, digest_of, push
from support.registry import Registry
from support.transfer import HTPASSWD, Certificates, TokenServer, World, entry, layer_digests, put, put_index, spec
from support.webserver import Route, WebServer


async def stored(world: World, image: ImageSpec, name: str = "shelf.test/box:1") -> str:
    """Put an image into the store without a registry."""
    rule = NameRule(name.rpartition(":")[0], is_prefix=True)
    layout = oci_layout(image, name=name.rpartition(":")[2])
    [made] = await world.transfer.bind("default").import_archive(pieces(tar_of(layout)), ImportOptions(rules=(rule,)))
    return made.name


def manifest_at(registry: str, repository: str, name: str) -> bytes:
    accept = {"Accept": f"{documents.OCI_MANIFEST}, {documents.OCI_INDEX}"}
    request = urllib.request.Request(f"http://{registry}/v2/{repository}/manifests/{name}", headers=accept)
    with urllib.request.urlopen(request, timeout=30) as response:
        data: bytes = response.read()
        return data


async def test_a_push_is_what_a_pull_gets(world: World, proxy: FaultProxy) -> None:
    image = spec("pushed", "twice")
    name = await stored(world, image)
    told: list[Progress] = []
    pushed = await world.transfer.bind("default").push(name, f"{proxy.address}/pushed/first:1", progress=told.append)
    assert pushed.digest == digest_of(image.manifest())
    assert manifest_at(proxy.upstream[7:], "pushed/first", "1") == image.manifest()
    assert told[-1].event == "pushed"
    back = await world.transfer.bind("back").pull(f"{proxy.address}/pushed/first:1", PullOptions(unpack=False))
    assert back.target.digest == pushed.digest
    # The tag is set last.
    puts = [seen.path for seen in proxy.requests("^PUT")]
    assert puts[-1].endswith("/manifests/1")
    assert all("/blobs/" in path for path in puts[:-1])


async def test_what_is_there_is_not_sent_again(world: World, proxy: FaultProxy) -> None:
    image = spec("there", "before")
    name = await stored(world, image)
    bound = world.transfer.bind("default")
    await bound.push(name, f"{proxy.address}/there/first:1")
    proxy.seen.clear()
    await bound.push(name, f"{proxy.address}/there/first:2")
    assert proxy.requests("^(POST|PATCH)") == []
    # To another repository it is mounted.
    told: list[Progress] = []
    await bound.push(name, f"{proxy.address}/there/second:1", progress=told.append)
    assert proxy.requests("^PATCH") == []
    assert {step.event for step in told} >= {"mounted", "pushed"}
    assert {seen.status for seen in proxy.requests("^POST")} == {201}
    assert manifest_at(proxy.upstream[7:], "there/second", "1") == image.manifest()


async def test_a_mount_that_is_refused_is_an_upload(world: World, proxy: FaultProxy) -> None:
    name = await stored(world, spec("refused"))
    bound = world.transfer.bind("default")
    await bound.push(name, f"{proxy.address}/refused/first:1")
    proxy.faults.append(Fault(r"^POST .*second.*\?.*mount", times=2, status=403))
    await bound.push(name, f"{proxy.address}/refused/second:1")
    assert len(proxy.requests("^PATCH .*second")) == 2


async def test_an_upload_that_breaks_goes_on_from_what_arrived(world: World, registry: Registry) -> None:
    image = spec("long", size=6 << 20)
    name = await stored(world, image)
    async with UploadKeeper(registry.address, cut=4 << 20) as keeper:
        await world.transfer.bind("default").push(name, f"{keeper.address}/long/box:1")
    assert manifest_at(registry.address, "long/box", "1") == image.manifest()
    assert max(keeper.starts) == 4 << 20


async def test_a_registry_that_takes_no_bytes_is_given_up(
    world: World, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooraged.transfer.source.ROUNDS_MAX", 2)
    name = await stored(world, spec("stuck", size=6 << 20))
    async with UploadKeeper(registry.address, stuck=True) as keeper:
        with pytest.raises(Unavailable, match="time limit"):
            await world.transfer.bind("default").push(name, f"{keeper.address}/stuck/box:1")


class UploadKeeper(WebServer):
    """In front of a registry: keeps what arrived of an upload that broke, as the specification allows and Debian's registry
    does not. The first one of more than `cut` bytes is cut there; `stuck` reads none of them."""

    def __init__(self, upstream: str, cut: int = 0, *, stuck: bool = False) -> None:
        self._upstream = upstream
        self._cut = cut
        self._stuck = stuck
        self._sessions: dict[str, bytearray] = {}
        self.starts: list[int] = []

    def routes(self) -> list[Route]:
        return [
            ("POST", "/v2/{name:.+}/blobs/uploads/", self._begin),
            ("*", "/sessions/{id}/{name:.+}", self._session),
            ("*", "/{path:.*}", self._elsewhere),
        ]

    async def __aenter__(self) -> Self:
        self._stopping = asyncio.Event()
        return await super().__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        self._stopping.set()
        await super().__aexit__(*error)

    async def _begin(self, request: web.Request) -> web.Response:
        id = str(len(self._sessions))
        self._sessions[id] = bytearray()
        return web.Response(status=202, headers={"Location": f"/sessions/{id}/{request.match_info['name']}"})

    async def _session(self, request: web.Request) -> web.Response:
        kept = self._sessions[request.match_info["id"]]
        if request.method == "PATCH":
            await self._take(request, kept)
        elif request.method == "PUT":
            digest = await asyncio.to_thread(
                put, self._upstream, request.match_info["name"], "blobs", "", bytes(kept), ""
            )
            assert digest == request.query["digest"]
            return web.Response(status=201)
        headers = {"Location": request.path, "Range": f"0-{max(len(kept) - 1, 0)}"}
        return web.Response(status=202 if request.method == "PATCH" else 204, headers=headers)

    async def _take(self, request: web.Request, kept: bytearray) -> None:
        if self._stuck:
            await self._stopping.wait()
        start = int(request.headers["Content-Range"].partition("-")[0])
        self.starts.append(start)
        assert start == len(kept)
        async for piece in request.content.iter_any():
            kept += piece
            if self._cut and len(kept) >= self._cut:
                del kept[self._cut :]
                self._cut = 0
                assert request.transport is not None
                request.transport.abort()
                return

    async def _elsewhere(self, request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"http://{self._upstream}{request.path_qs}"})


async def test_a_registry_that_is_busy_is_asked_again(world: World, proxy: FaultProxy) -> None:
    name = await stored(world, spec("busy"))
    proxy.faults += [
        Fault("^PUT .*manifests", times=1, status=429, headers={"Retry-After": "1"}),
        Fault("^PUT .*blobs", times=1, status=503),
    ]
    await world.transfer.bind("default").push(name, f"{proxy.address}/busy/box:1")
    assert [seen.status for seen in proxy.requests("^PUT .*manifests")] == [429, 201]


async def test_an_upload_session_that_is_gone_is_begun_again(world: World, proxy: FaultProxy) -> None:
    name = await stored(world, spec("gone"))
    proxy.faults.append(Fault("^PUT .*blobs", times=1, status=404))
    await world.transfer.bind("default").push(name, f"{proxy.address}/gone/box:1")


async def test_a_registry_that_refuses_is_not_asked_again(
    world: World, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await stored(world, spec("never"))
    proxy.faults.append(Fault("^POST", status=403, body=b'{"errors": [{"code": "DENIED", "message": "no berth"}]}'))
    with pytest.raises(PermissionDenied, match="no berth"):
        await world.transfer.bind("default").push(name, f"{proxy.address}/never/box:1")
    monkeypatch.setattr("mooraged.transfer.source.ROUNDS_MAX", 2)
    proxy.faults[:] = [Fault("^POST", status=500)]
    with pytest.raises(Unavailable):
        await world.transfer.bind("default").push(name, f"{proxy.address}/never/box:1")


async def test_an_index_goes_whole_or_as_one_platform(world: World, registry: Registry) -> None:
    mine, other = spec("mine"), ImageSpec(spec("other").layers, architecture="riscv64")
    for tag, image in (("a", mine), ("b", other)):
        push(registry.address, "indexed", tag, image)
    entries = [entry(mine.manifest(), platform="linux/amd64"), entry(other.manifest(), platform="linux/riscv64")]
    digest = put_index(registry.address, "indexed", "all", entries)
    name = f"{registry.address}/indexed:all"
    bound = world.transfer.bind("default")
    await bound.pull(name, PullOptions(unpack=False))
    with pytest.raises(FailedPrecondition, match="linux/amd64"):
        await bound.push(name, f"{registry.address}/copied:all")
    # The registry has the rest of it in this repository.
    assert (await bound.push(name, f"{registry.address}/indexed:again")).digest == digest
    amd64 = PushOptions(platforms=(Platform("linux", "amd64"),))
    assert (await bound.push(name, f"{registry.address}/copied:one", amd64)).digest == digest_of(mine.manifest())
    await bound.pull(name, PullOptions(platforms=(Platform("linux", "riscv64"),), unpack=False))
    assert (await bound.push(name, f"{registry.address}/copied:all")).digest == digest
    assert json.loads(manifest_at(registry.address, "copied", "all"))["manifests"] == entries


async def test_what_cannot_be_pushed(world: World, registry: Registry) -> None:
    image = spec("local")
    name = await stored(world, image)
    bound = world.transfer.bind("default")
    with pytest.raises(NotFound):
        await bound.push("shelf.test/nothing:1", f"{registry.address}/x:1")
    with pytest.raises(InvalidArgument, match="cannot name"):
        await bound.push(name, f"{registry.address}/x@sha256:{'0' * 64}")
    world.metadata.bind("default").content.delete(layer_digests(image)[0])
    with pytest.raises(FailedPrecondition):
        await bound.push(name, f"{registry.address}/x:1")


async def test_only_hosts_that_may_be_pushed_to_are(world: World, registry: Registry, proxy: FaultProxy) -> None:
    name = await stored(world, spec("hosts"))
    world.hosts(
        "origin.test",
        f'server = "http://{registry.address}"\n[host."http://{proxy.address}"]\n  capabilities = ["pull", "resolve"]\n',
    )
    await world.transfer.bind("default").push(name, "origin.test/hosts/box:1")
    assert proxy.seen == []
    assert manifest_at(registry.address, "hosts/box", "1")


async def test_a_push_with_a_password(world: World, tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    basic = {"auth": {"htpasswd": {"realm": "dock", "path": str(tmp_path / "htpasswd")}}}
    name = await stored(world, spec("password"))
    with Registry(tmp_path / "registry", extra=basic) as closed:
        await _logs_in(world, name, closed.address)


async def test_a_push_with_a_token(world: World, tmp_path: Path, certificates: Certificates) -> None:
    name = await stored(world, spec("token"))
    async with TokenServer(certificates) as tokens:
        with Registry(tmp_path / "registry", extra=tokens.configuration()) as closed:
            await _logs_in(world, name, closed.address)
    asked = [request for request in tokens.requests if "push" in request]
    assert asked
    assert any("second" in request and "first" in request for request in asked)


async def _logs_in(world: World, name: str, registry: str) -> None:
    async def anna(host: str) -> Credentials:
        assert host == registry
        return Credentials("anna", "harbour")

    bound = world.transfer.bind("default")
    with pytest.raises((Unauthenticated, PermissionDenied)):
        await bound.push(name, f"{registry}/first:1")
    for repository in ("first", "second"):
        await bound.push(name, f"{registry}/{repository}:1", PushOptions(credentials=anna))
    await world.transfer.bind("back").pull(f"{registry}/second:1", PullOptions(credentials=anna, unpack=False))
