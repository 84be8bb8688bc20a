"""What a pull would do, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage_api.errors import FailedPrecondition
from moorage_api.oci import image as documents
from moorage_api.transfer import Credentials, PullOptions
from support.faultproxy import Fault, FaultProxy
from support.images import ImageSpec, digest_of, push
from support.registry import Registry, free_port
from support.transfer import HTPASSWD, World, entry, put_index, spec


async def test_the_hosts_their_order_and_what_each_says(world: World, registry: Registry, proxy: FaultProxy) -> None:
    proxy.faults.append(Fault("library", status=404))
    dead = f"127.0.0.1:{free_port()}"
    world.hosts(
        "origin.test",
        f"""server = "http://{registry.address}"
[host."http://{dead}"]
[host."http://127.0.0.1:1"]
  capabilities = ["pull"]
[host."http://{proxy.address}"]
""",
    )
    explained = await world.transfer.bind("default").explain("origin.test/library/busybox")
    assert explained.reference == "origin.test/library/busybox:latest"
    assert explained.config == str(world.certs / "origin.test" / "hosts.toml")
    assert [step.url for step in explained.hosts] == [
        f"http://{address}/v2" for address in (dead, "127.0.0.1:1", proxy.address, registry.address)
    ]
    assert [step.asked for step in explained.hosts] == [True, False, True, True]
    outcomes = [step.outcome for step in explained.hosts]
    assert "no connection" in outcomes[0]
    assert outcomes[1] == "passed over: it is not trusted to resolve"
    assert "404" in outcomes[2]
    assert outcomes[3] == "it has it"
    assert explained.hosts[2].origin.startswith(f'[host."http://{proxy.address}"] in ')
    assert explained.digest == explained.hosts[3].digest == digest_of(ImageSpec().manifest())
    assert explained.hosts[3].tls == "none: plain HTTP"
    assert world.blobs() == {}
    by_digest = await world.transfer.bind("default").explain(f"origin.test/library/busybox@{explained.digest}")
    assert by_digest.hosts[1].asked


async def test_what_comes_after_an_answer_is_not_asked(world: World, registry: Registry, proxy: FaultProxy) -> None:
    world.hosts("origin.test", f'server = "http://{proxy.address}"\n[host."http://{registry.address}"]\n')
    explained = await world.transfer.bind("default").explain("origin.test/library/busybox")
    assert explained.hosts[1].outcome == f"not asked, since {registry.address} has answered"
    assert proxy.seen == []


async def test_where_credentials_come_from(world: World, tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    basic = {"auth": {"htpasswd": {"realm": "dock", "path": str(tmp_path / "htpasswd")}}}

    async def anna(host: str) -> Credentials:
        return Credentials("anna", "harbour")

    bound = world.transfer.bind("default")
    with Registry(tmp_path / "registry", extra=basic) as closed:
        reference = f"{closed.address}/locked:1"
        [refused] = (await bound.explain(reference)).hosts
        assert refused.credentials == "anonymous"
        assert "user name and a password" in refused.outcome
        [found] = (await bound.explain(reference, PullOptions(credentials=anna))).hosts
        assert (found.login, found.credentials) == ("user name and password", "client: user anna")
        assert "404" in found.outcome
        assert "harbour" not in repr(found)
        assert found.origin == "the registry itself"


async def test_a_configuration_that_cannot_be_read(world: World) -> None:
    world.hosts("origin.test", "server = [")
    with pytest.raises(FailedPrecondition, match=r"hosts\.toml"):
        await world.transfer.bind("default").explain("origin.test/x")


async def test_referrers_of_registries_without_a_list(world: World, registry: Registry) -> None:
    push(registry.address, "signed", "1", spec("signed"))
    subject = digest_of(spec("signed").manifest())
    bound = world.transfer.bind("default")
    assert await bound.referrers(f"{registry.address}/signed:1") == []
    push(registry.address, "signed", "signature", spec("signature"))
    listed = {**entry(spec("signature").manifest()), "artifactType": "application/vnd.example.signature"}
    put_index(registry.address, "signed", subject.replace(":", "-"), [listed], documents.OCI_INDEX)
    [found] = await bound.referrers(f"{registry.address}/signed:1")
    assert found.artifact_type == "application/vnd.example.signature"
    assert found.digest == digest_of(spec("signature").manifest())
    assert await bound.referrers(f"{registry.address}/signed:1", "application/spdx+json") == []
