"""The event bus: who hears what, in which order, and what happens to slow readers."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import aclosing

import pytest

from moorage_api.errors import InvalidArgument, ResourceExhausted, Unavailable
from moorage_api.events import Envelope, EventBus, Subscription
from moorage_api.types import TypedValue
from moorage_api.wire import events_types_pb2 as pb
from mooraged.events.exchange import Exchange


async def take(events: Subscription, count: int) -> list[Envelope]:
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(count)]


def exit_event(number: int = 0, id: str = "c") -> pb.TaskExit:
    return pb.TaskExit(container_id=id, id=id, pid=number, exit_status=number)


def test_it_is_an_event_bus() -> None:
    assert isinstance(Exchange(), EventBus)


async def test_an_event_arrives_whole() -> None:
    bus = Exchange()
    async with aclosing(bus.subscribe()) as events:
        before = time.time_ns()
        bus.publish("default", "/tasks/exit", exit_event(7))
        [envelope] = await take(events, 1)
    assert before <= envelope.timestamp <= time.time_ns()
    assert (envelope.namespace, envelope.topic) == ("default", "/tasks/exit")
    assert envelope.event.type_url == "containerd.events.TaskExit"
    assert pb.TaskExit.FromString(envelope.event.value) == exit_event(7)


async def test_forwarded_events_keep_their_time() -> None:
    bus = Exchange()
    async with aclosing(bus.subscribe()) as events:
        envelope = Envelope(5, "a", "/x", TypedValue("unknown.Type", b"\xff"))
        bus.forward(envelope)
        assert await take(events, 1) == [envelope]


async def test_a_subscription_starts_with_its_call_and_ends_with_its_close() -> None:
    bus = Exchange()
    bus.publish("a", "/before", exit_event())
    events = bus.subscribe()
    bus.publish("a", "/after", exit_event())
    assert [e.topic for e in await take(events, 1)] == ["/after"]
    await events.aclose()
    await events.aclose()
    bus.publish("a", "/late", exit_event())
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_who_asks_for_what_is_past_gets_what_is_kept() -> None:
    bus = Exchange(history_length=3)
    for moment in (1, 2, 3, 4, 5):
        bus.forward(Envelope(moment, "default", f"/{'even' if moment % 2 == 0 else 'odd'}", TypedValue("x", b"")))
    reader = bus.subscribe(['topic=="/odd"'], since=2)
    bus.forward(Envelope(9, "default", "/odd", TypedValue("x", b"")))
    assert [(await anext(reader)).timestamp for _ in range(3)] == [3, 5, 9]
    bus.forward(Envelope(10, "default", "/odd", TypedValue("x", b"")))
    later = bus.subscribe()
    bus.forward(Envelope(11, "default", "/odd", TypedValue("x", b"")))
    assert (await anext(later)).timestamp == 11


async def test_closing_wakes_a_reader_that_waits() -> None:
    bus = Exchange()
    events = bus.subscribe()
    reader = asyncio.ensure_future(anext(events, None))
    await asyncio.sleep(0.01)
    await events.aclose()
    assert await asyncio.wait_for(reader, 5) is None


async def test_every_reader_hears_everything_from_many_threads_in_one_order() -> None:
    bus = Exchange()
    readers = [bus.subscribe() for _ in range(3)]

    def publish(name: str) -> None:
        for number in range(300):
            bus.publish(name, "/tasks/exit", exit_event(number))

    threads = [threading.Thread(target=publish, args=(f"n{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    heard = await asyncio.gather(*(take(reader, 1200) for reader in readers))
    for thread in threads:
        thread.join()
    assert heard[0] == heard[1] == heard[2]
    for name in ("n0", "n3"):
        numbers = [pb.TaskExit.FromString(e.event.value).pid for e in heard[0] if e.namespace == name]
        assert numbers == list(range(300))


async def test_a_slow_reader_is_cut_off_and_blocks_nobody() -> None:
    bus = Exchange(queue_length=10)
    slow, fast = bus.subscribe(), bus.subscribe()
    for number in range(11):
        bus.publish("a", "/x", exit_event(number))
        await take(fast, 1)
    assert len(await take(slow, 10)) == 10
    with pytest.raises(ResourceExhausted, match="more than 10 events behind"):
        await anext(slow)
    bus.publish("a", "/x", exit_event())
    assert len(await take(fast, 1)) == 1


async def test_readers_learn_that_the_bus_is_closed_after_what_is_queued() -> None:
    bus = Exchange()
    events = bus.subscribe()
    bus.publish("a", "/x", exit_event())
    bus.close()
    assert len(await take(events, 1)) == 1
    with pytest.raises(Unavailable):
        await anext(events)


def test_publishing_to_a_reader_whose_loop_is_gone_is_harmless() -> None:
    bus = Exchange()

    async def subscribe() -> Subscription:
        return bus.subscribe()

    events = asyncio.run(subscribe())
    bus.publish("a", "/x", exit_event())
    bus.publish("a", "/x", exit_event())
    assert events is not None


EVENTS = {
    "exit": ("a", "/tasks/exit", exit_event(137, "web")),
    "oom": ("b", "/tasks/oom", pb.TaskOOM(container_id="web")),
    "namespace": ("b", "/namespaces/update", pb.NamespaceUpdate(name="b", labels={"io.x/y": "z"})),
    "container": ("a", "/containers/create", pb.ContainerCreate(id="db", runtime={"name": "io.containerd.runc.v2"})),
}


@pytest.mark.parametrize(
    ("filters", "heard"),
    [
        ([], "exit oom namespace container"),
        ([""], "exit oom namespace container"),
        (["namespace==a"], "exit container"),
        (['topic=="/tasks/oom"'], "oom"),
        (["topic~=/tasks/"], "exit oom"),
        (["topic~=|^/tasks|,namespace==a"], "exit"),
        (["namespace==a", 'topic=="/tasks/oom"'], "exit oom container"),
        (["event.container_id==web"], "exit oom"),
        (["event.exit_status==137"], "exit"),
        (['event.labels."io.x/y"==z'], "namespace"),
        (["event.runtime.name"], "container"),
        (["event.runtime.options"], ""),
        (["event.exited_at"], ""),
        (["event.absent"], ""),
        (["event"], ""),
        (["absent==x"], ""),
    ],
)
async def test_filters(filters: list[str], heard: str) -> None:
    bus = Exchange()
    events = bus.subscribe(filters)
    for namespace, topic, event in EVENTS.values():
        bus.publish(namespace, topic, event)
    bus.close()
    names = {topic: name for name, (_, topic, _) in EVENTS.items()}
    found = [names[e.topic] for e in await take(events, len(heard.split()))]
    assert found == heard.split()
    with pytest.raises(Unavailable):
        await anext(events)


async def test_a_payload_that_is_not_of_its_type_has_no_fields() -> None:
    bus = Exchange()
    events = bus.subscribe(["event.container_id==web", 'topic=="/y"'])
    bus.forward(Envelope(1, "a", "/x", TypedValue("containerd.events.TaskExit", b"\xff\xff")))
    bus.forward(Envelope(1, "a", "/y", TypedValue("type.googleapis.com/containerd.events.TaskExit", b"")))
    assert [e.topic for e in await take(events, 1)] == ["/y"]


@pytest.mark.parametrize("topic", ["", "tasks/exit", "/", "/tasks//exit", "/tasks/", "/a b", "/tasks/exit/"])
async def test_malformed_topics_are_refused(topic: str) -> None:
    with pytest.raises(InvalidArgument):
        Exchange().publish("default", topic, exit_event())


async def test_other_malformed_input_is_refused() -> None:
    bus = Exchange()
    with pytest.raises(InvalidArgument):
        bus.publish("a/b", "/x", exit_event())
    with pytest.raises(InvalidArgument):
        bus.forward(Envelope(0, "a", "/x", TypedValue("", b"")))
    with pytest.raises(InvalidArgument):
        bus.subscribe(["topic=="])
