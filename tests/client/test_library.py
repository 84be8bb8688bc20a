"""`import moorage`: what a program does with it, against a real daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import moorage
from moorage_api.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from moorage_api.types import TypedValue
from moorage_api.wire import events_types_pb2
from support.daemon import Daemon


async def connected(daemon: Daemon, namespace: str, image: str) -> moorage.Client:
    client = moorage.connect(daemon.address, namespace)
    await client.pull(image)
    return client


async def remnants(client: moorage.Client) -> tuple[int, int, int, int]:
    """How many containers, tasks, leases, and active snapshots there are."""
    snapshots = await client.snapshots((await client.defaults()).snapshotter).list("kind==active")
    lists = (await client.containers.list(), await client.tasks.list(), await client.leases.list(), snapshots)
    return len(lists[0]), len(lists[1]), len(lists[2]), len(lists[3])


def test_every_public_name_is_there() -> None:
    for name in moorage.__all__:
        assert getattr(moorage, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = moorage.nothing_of_that_name


def test_addresses_and_namespaces_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for what in ("ADDRESS", "NAMESPACE"):
        for whose in ("MOORAGE", "CONTAINERD"):
            monkeypatch.delenv(f"{whose}_{what}", raising=False)

    async def where() -> tuple[str, str]:
        async with moorage.connect() as client:
            return client.address, client.namespace

    assert asyncio.run(where()) == ("/run/moorage/moorage.sock", "default")
    monkeypatch.setenv("CONTAINERD_ADDRESS", "/c.sock")
    monkeypatch.setenv("CONTAINERD_NAMESPACE", "c")
    assert asyncio.run(where()) == ("/c.sock", "c")
    monkeypatch.setenv("MOORAGE_ADDRESS", "/m.sock")
    monkeypatch.setenv("MOORAGE_NAMESPACE", "m")
    assert asyncio.run(where()) == ("/m.sock", "m")


async def test_no_daemon_is_unavailable(tmp_path: Path) -> None:
    async with moorage.connect(str(tmp_path / "none.sock")) as client:
        with pytest.raises(Unavailable):
            await client.images.list()


async def test_pull_run_and_exec(shared_daemon: Daemon, busybox: str) -> None:
    steps: list[moorage.Progress] = []
    async with moorage.connect(shared_daemon.address, "library") as client:
        image = await client.pull(busybox, progress=steps.append)
        assert (image.name, steps[-1].event) == (busybox, "saved")
        output = await client.run(busybox, ["sh", "-c", "cat; echo oops >&2; exit 4"], input=b"in")
        assert output == moorage.Output(4, b"in", b"oops\n")
        container = await client.create(busybox, moorage.ContainerOptions(args=["sleep", "100"], name="lib"))
        await container.start()
        assert await container.exec(["cat"], input=b"x" * 200_000) == moorage.Output(0, b"x" * 200_000, b"")
        assert (await container.exec(["id", "-u"], user="nobody")).stdout == b"65534\n"
        with pytest.raises(FailedPrecondition, match="running already"):
            await container.start()
        with pytest.raises(AlreadyExists, match=container.id[:12]):
            await client.create(busybox, moorage.ContainerOptions(name="lib"))
        exit = await container.stop(timeout=0.1)
        assert exit is not None
        assert exit.status == 137
        assert (await container.state()).exit_status == 137
        with pytest.raises(FailedPrecondition, match="is not running"):
            await container.exec(["true"])
        await container.remove()
        with pytest.raises(NotFound):
            await client.container(container.id)
        assert await remnants(client) == (0, 0, 0, 0)


async def test_what_fails_leaves_nothing(shared_daemon: Daemon, busybox: str) -> None:
    async with await connected(shared_daemon, "failing", busybox) as client:
        with pytest.raises(NotFound, match="stranger"):
            await client.create(busybox, moorage.ContainerOptions(user="stranger"))
        with pytest.raises(NotFound, match="no such network"):
            await client.create(busybox, moorage.ContainerOptions(network="nowhere"))
        with pytest.raises(moorage.MoorageError, match="no-such-program"):
            await client.run(busybox, ["no-such-program"])
        with pytest.raises(NotFound):
            await client.run("no.such/image:1")
        assert await remnants(client) == (0, 0, 0, 0)


async def test_a_cancelled_run_leaves_nothing(shared_daemon: Daemon, busybox: str) -> None:
    async with await connected(shared_daemon, "cancelled", busybox) as client:
        for seconds in (0.02, 0.1, 0.3, 1.0):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.run(busybox, ["sleep", "100"]), seconds)
        assert await remnants(client) == (0, 0, 0, 0)


async def test_an_image_that_is_not_unpacked_is_unpacked_when_it_is_used(shared_daemon: Daemon, busybox: str) -> None:
    async with moorage.connect(shared_daemon.address, "packed") as client:
        await client.pull(busybox, moorage.PullOptions(unpack=False))
        snapshots = client.snapshots((await client.defaults()).snapshotter)
        assert await snapshots.list() == []
        assert (await client.run(busybox, ["echo", "unpacked"])).stdout == b"unpacked\n"
        image = await client.image(busybox)
        assert [info.name for info in await snapshots.list()] == [image.chain_id]
        label = f"containerd.io/gc.ref.snapshot.{snapshots.snapshotter}"
        assert (await client.content.info(image.id)).labels[label] == image.chain_id
        # By another snapshotter, which has none of its layers yet.
        options = moorage.ContainerOptions(args=["echo", "copied"], snapshotter="native")
        assert (await client.run(busybox, options=options)).stdout == b"copied\n"


async def test_ten_at_once(shared_daemon: Daemon, busybox: str) -> None:
    async with await connected(shared_daemon, "crowd", busybox) as client:
        outputs = await asyncio.gather(*(client.run(busybox, ["echo", str(number)]) for number in range(10)))
        assert [output.stdout for output in outputs] == [f"{number}\n".encode() for number in range(10)]
        assert await remnants(client) == (0, 0, 0, 0)


async def test_events_and_namespaces(shared_daemon: Daemon, busybox: str) -> None:
    async with await connected(shared_daemon, "listener", busybox) as client:
        events = client.events.subscribe('namespace==listener,topic=="/containers/create"')
        first = asyncio.ensure_future(anext(events))
        while not first.done():
            await (await client.create(busybox)).remove()
            await asyncio.wait([first], timeout=0.2)
        envelope = first.result()
        assert (envelope.namespace, envelope.topic) == ("listener", "/containers/create")
        assert moorage.decode_event(envelope.event)["image"] == busybox
        await events.aclose()
        other = client.in_namespace("elsewhere")
        assert await other.images.list() == []
        assert {"listener"} <= set(await client.namespaces.list())


@pytest.mark.parametrize(("type_url", "value"), [("somebody.Elses", b""), ("containerd.events.TaskExit", b"\xff")])
def test_an_event_is_told_without_what_is_not_known_in_it(type_url: str, value: bytes) -> None:
    event = events_types_pb2.ContainerCreate(id="c")
    event.runtime.name = "io.containerd.other.v1"
    event.runtime.options.type_url, event.runtime.options.value = type_url, value
    told = moorage.decode_event(TypedValue("containerd.events.ContainerCreate", event.SerializeToString()))
    assert told == {"id": "c", "runtime": {"name": "io.containerd.other.v1"}}
