"""Registries behind locks: passwords, tokens, TLS; and what is sent where."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from moorage_api.errors import PermissionDenied, Unauthenticated, Unavailable
from moorage_api.transfer import Credentials, CredentialSource, PullOptions
from support.faultproxy import Fault, FaultProxy
from support.images import push
from support.registry import Registry
from support.transfer import HTPASSWD, Certificates, TokenServer, World, layer_digests, spec

IMAGE = spec("locked")
ANNA = Credentials("anna", "harbour")


def options(credentials: Credentials | None) -> PullOptions:
    async def source(host: str) -> Credentials | None:
        return credentials

    return PullOptions(credentials=source)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a registry that has the image `locked/image:v1`."""
    folder = tmp_path_factory.mktemp("locked")
    with Registry(folder) as open_registry:
        push(open_registry.address, "locked/image", "v1", IMAGE)
    return folder


@pytest.fixture(scope="module")
def password_registry(data: Path) -> Iterator[Registry]:
    (data / "htpasswd").write_text(HTPASSWD)
    with Registry(data, extra={"auth": {"htpasswd": {"realm": "dock", "path": str(data / "htpasswd")}}}) as running:
        yield running


@pytest.fixture
async def token_server(certificates: Certificates) -> AsyncIterator[TokenServer]:
    async with TokenServer(certificates) as running:
        yield running


@pytest.fixture
def token_registry(data: Path, token_server: TokenServer) -> Iterator[Registry]:
    with Registry(data, extra=token_server.configuration()) as running:
        yield running


# Passwords


async def test_a_password(world: World, password_registry: Registry) -> None:
    transfer = world.transfer.bind("default")
    reference = f"{password_registry.address}/locked/image:v1"
    with pytest.raises(Unauthenticated, match="wants a user name and a password"):
        await transfer.pull(reference)
    with pytest.raises(Unauthenticated, match="does not take this user name") as caught:
        await transfer.pull(reference, options(Credentials("anna", "wr0ng-s3cret")))
    assert "wr0ng-s3cret" not in str(caught.value)
    await transfer.pull(reference, options(ANNA))
    assert world.leftovers() == []


async def test_a_password_does_not_follow_a_redirect(
    world: World, password_registry: Registry, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    push(registry.address, "locked/image", "v1", IMAGE)
    caplog.set_level(logging.DEBUG)
    async with FaultProxy(f"http://{registry.address}") as store:
        faults = [Fault("GET .*/blobs/", redirect=f"http://{store.address}")]
        async with FaultProxy(f"http://{password_registry.address}", faults) as front:
            await world.transfer.bind("default").pull(f"{front.address}/locked/image:v1", options(ANNA))
            assert all("Authorization" in seen.headers for seen in front.requests("GET"))
        assert len(store.seen) == 2
        assert all("Authorization" not in seen.headers for seen in store.seen)
    assert "harbour" not in caplog.text
    assert "Basic " not in caplog.text


async def test_configured_headers_do_not_follow_a_redirect(world: World, registry: Registry) -> None:
    push(registry.address, "locked/image", "v1", IMAGE)
    async with FaultProxy(f"http://{registry.address}") as store:
        faults = [Fault("GET .*/blobs/", redirect=f"http://{store.address}")]
        async with FaultProxy(f"http://{registry.address}", faults) as front:
            world.hosts("a.example", f'server = "http://{front.address}"\n[header]\nX-Team-Key = ["k1", "k2"]\n')
            await world.transfer.bind("default").pull("a.example/locked/image:v1")
            assert all(seen.headers["X-Team-Key"] in ("k1", "k2") for seen in front.seen)
        assert store.seen
        assert all("X-Team-Key" not in seen.headers for seen in store.seen)


async def test_a_password_is_asked_for_once_it_is_needed(world: World, registry: Registry) -> None:
    asked: list[str] = []

    async def source(host: str) -> Credentials | None:
        asked.append(host)
        return ANNA

    given: CredentialSource = source
    await world.transfer.bind("default").pull(f"{registry.address}/library/busybox", PullOptions(credentials=given))
    assert asked == []


# Tokens


@pytest.mark.parametrize("credentials", [ANNA, Credentials(secret="anchor")], ids=["password", "identity token"])
async def test_a_token(
    world: World, token_registry: Registry, token_server: TokenServer, credentials: Credentials
) -> None:
    transfer = world.transfer.bind("default")
    await transfer.pull(f"{token_registry.address}/locked/image:v1", options(credentials))
    assert layer_digests(IMAGE)[0] in world.blobs()
    await world.transfer.bind("other").pull(f"{token_registry.address}/locked/image:v1", options(credentials))
    assert len(token_server.requests) == 1, "the token was used again"


async def test_no_token(world: World, token_registry: Registry, token_server: TokenServer) -> None:
    with pytest.raises(Unauthenticated, match=r"token server 127\.0\.0\.1: .*who are you\?"):
        await world.transfer.bind("default").pull(f"{token_registry.address}/locked/image:v1")
    with pytest.raises(Unauthenticated, match="token server"):
        await world.transfer.bind("default").pull(
            f"{token_registry.address}/locked/image:v1", options(Credentials("anna", "wrong"))
        )


async def test_a_token_that_does_not_suffice(world: World, token_registry: Registry) -> None:
    given = Credentials(header="Bearer nonsense")
    with pytest.raises(Unauthenticated, match="does not take the token"):
        await world.transfer.bind("default").pull(f"{token_registry.address}/locked/image:v1", options(given))


async def test_a_registry_that_refuses_every_token_is_not_asked_for_ever(
    world: World, token_registry: Registry, token_server: TokenServer
) -> None:
    challenge = (
        f'Bearer realm="http://{token_server.address}/token",service="dock",scope="repository:locked/image:pull"'
    )
    refuse = Fault("", status=401, headers={"WWW-Authenticate": challenge})
    async with FaultProxy(f"http://{token_registry.address}", [refuse]) as front:
        with pytest.raises(Unauthenticated, match="401"):
            await world.transfer.bind("default").pull(f"{front.address}/locked/image:v1", options(ANNA))
        assert len(front.seen) == 3


# TLS


@pytest.fixture(scope="module")
def tls_registry(data: Path, certificates: Certificates) -> Iterator[Registry]:
    tls = {"certificate": str(certificates.server), "key": str(certificates.key(certificates.server))}
    with Registry(data, {"tls": tls}) as running:
        yield running


@pytest.fixture(scope="module")
def mutual_registry(data: Path, certificates: Certificates) -> Iterator[Registry]:
    """A registry that wants a certificate of its clients."""
    tls = {"certificate": str(certificates.server), "key": str(certificates.key(certificates.server))}
    with Registry(data, {"tls": {**tls, "clientcas": [str(certificates.ca)]}}) as running:
        yield running


async def test_tls_on_this_machine_is_found_out(world: World, tls_registry: Registry) -> None:
    await world.transfer.bind("default").pull(f"{tls_registry.address}/locked/image:v1")


async def test_a_certificate_that_nobody_vouches_for(world: World, tls_registry: Registry) -> None:
    world.hosts("a.example", f'server = "https://{tls_registry.address}"\n')
    with pytest.raises(Unavailable, match="certificate is not trusted"):
        await world.transfer.bind("default").pull("a.example/locked/image:v1")


@pytest.mark.parametrize("how", ["ca", "skip_verify"])
async def test_an_authority_of_ones_own(
    world: World, tls_registry: Registry, certificates: Certificates, how: str
) -> None:
    setting = f'ca = "{certificates.ca}"' if how == "ca" else "skip_verify = true"
    world.hosts("a.example", f'[host."https://{tls_registry.address}"]\n{setting}\n')
    saved = await world.transfer.bind("default").pull("a.example/locked/image:v1")
    assert saved.name == "a.example/locked/image:v1"


async def test_an_untrusted_certificate_never_leads_to_plain_http(
    world: World, tls_registry: Registry, certificates: Certificates
) -> None:
    world.hosts("a.example", f'server = "http://{tls_registry.address}"\nca = "{certificates.client}"\n')
    with pytest.raises(Unavailable, match="certificate is not trusted"):
        await world.transfer.bind("default").pull("a.example/locked/image:v1")


async def test_a_client_certificate(world: World, mutual_registry: Registry, certificates: Certificates) -> None:
    settings = f'server = "https://{mutual_registry.address}"\nca = "{certificates.ca}"\n'
    world.hosts("a.example", settings)
    with pytest.raises(Unavailable):
        await world.transfer.bind("default").pull("a.example/locked/image:v1")
    key = certificates.key(certificates.client)
    world.hosts("a.example", f'{settings}client = [["{certificates.client}", "{key}"]]\n')
    await world.transfer.bind("default").pull("a.example/locked/image:v1")


async def test_files_that_are_not_there(world: World, tls_registry: Registry) -> None:
    world.hosts("a.example", f'server = "https://{tls_registry.address}"\nca = "missing.pem"\n')
    with pytest.raises(Exception, match=r"TLS configuration cannot be used.*missing\.pem"):
        await world.transfer.bind("default").pull("a.example/locked/image:v1")


async def test_no_redirect_from_tls_to_plain_http(
    world: World, data: Path, certificates: Certificates, registry: Registry
) -> None:
    tls = {"certificate": str(certificates.server), "key": str(certificates.key(certificates.server))}
    redirecting = {
        "middleware": {"storage": [{"name": "redirect", "options": {"baseurl": f"http://{registry.address}/"}}]}
    }
    with (
        Registry(data, {"tls": tls}, redirecting) as running,
        pytest.raises(PermissionDenied, match="from TLS to plain HTTP"),
    ):
        await world.transfer.bind("default").pull(f"{running.address}/locked/image:v1")
