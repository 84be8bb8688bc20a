"""The events service: each namespace hears of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from moorage_api.events import EventBus
from moorage_api.plugin import PluginType
from moorage_api.rpc import NAMESPACE_HEADER, Service
from moorage_api.wire import containers_pb2, events_pb2, events_types_pb2, types_pb2
from moorage_api.wire.events_pb2_grpc import EventsStub
from mooraged.graph import Graph
from support.terminal import wait_until

from .conftest import Client, failure


def publish(client: Client, topic: str, id: str = "c") -> None:
    event = events_types_pb2.TaskOOM(container_id=id)
    payload = AnyMessage(type_url="containerd.events.TaskOOM", value=event.SerializeToString())
    client.events.Publish(events_pb2.PublishRequest(topic=topic, event=payload))


@contextmanager
def listening(client: Client, *filters: str) -> Iterator[list[types_pb2.Envelope]]:
    """What a subscriber hears: it is there when the block starts, and has heard all when the block ends."""
    stream = client.events.Subscribe(events_pb2.SubscribeRequest(filters=filters))
    heard: list[types_pb2.Envelope] = []
    seen = {"/ready": threading.Event(), "/done": threading.Event()}

    def read() -> None:
        try:
            for envelope in stream:
                if envelope.topic in seen:
                    seen[envelope.topic].set()
                else:
                    heard.append(envelope)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.CANCELLED  # noqa: PT017 - in a thread

    reader = threading.Thread(target=read)
    reader.start()
    publisher = client if client.namespace else Client(client._channel, "anyone")

    def mark(topic: str) -> None:
        deadline = time.monotonic() + 10
        while not seen[topic].wait(0.02):
            assert time.monotonic() < deadline, f"{topic} was not heard"
            publish(publisher, topic)

    mark("/ready")
    yield heard
    mark("/done")
    stream.cancel()
    reader.join()


def test_a_subscriber_hears_its_namespace_and_no_other(client: Client, other: Client) -> None:
    with listening(client) as heard:
        publish(other, "/tasks/oom")
        publish(client, "/tasks/oom", "web")
        client.containers.Create(
            containers_pb2.CreateContainerRequest(container=containers_pb2.Container(id="c", runtime={"name": "r.v2"}))
        )
    assert {e.namespace for e in heard} == {client.namespace}
    topics = [e.topic for e in heard if e.topic != "/namespaces/create"]
    assert topics == ["/tasks/oom", "/containers/create"]
    created = events_types_pb2.ContainerCreate.FromString(heard[-1].event.value)
    assert (heard[-1].event.type_url, created.id) == ("containerd.events.ContainerCreate", "c")


def test_a_filter_cannot_reach_into_another_namespace(client: Client, other: Client) -> None:
    filters = (f"namespace=={other.namespace}", 'topic~="/ready|/done|/tasks"')
    with listening(client, *filters) as heard:
        publish(other, "/tasks/oom")
        publish(client, "/tasks/oom")
        publish(client, "/images/create")
    assert [(e.namespace, e.topic) for e in heard] == [(client.namespace, "/tasks/oom")]


def test_who_names_no_namespace_hears_all(client: Client, other: Client, nobody: Client) -> None:
    with listening(nobody, "topic~=/ready|done/", "event.container_id==x") as heard:
        publish(other, "/tasks/oom", "x")
        publish(client, "/tasks/oom", "x")
        publish(client, "/tasks/oom", "y")
    assert [e.namespace for e in heard] == [other.namespace, client.namespace]


def test_forwarded_events_keep_their_time_and_their_namespace(client: Client, other: Client, nobody: Client) -> None:
    def forward(sender: Client, **changes: Any) -> None:
        fields = {"timestamp": Timestamp(seconds=5), "namespace": client.namespace, "topic": "/x"} | changes
        sender.events.Forward(events_pb2.ForwardRequest(envelope=types_pb2.Envelope(**fields)))

    with listening(client) as heard:
        forward(nobody)
        forward(client)
    assert [(e.timestamp.seconds, e.topic) for e in heard] == [(5, "/x")] * 2
    assert failure(lambda: forward(other))[0] is grpc.StatusCode.PERMISSION_DENIED
    for wrong in ({"topic": "x"}, {"namespace": "a/b"}, {"timestamp": None}, {"timestamp": Timestamp(seconds=1 << 50)}):
        assert failure(lambda wrong=wrong: forward(nobody, **wrong))[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_headers_ask_for_what_is_past_and_for_an_end(client: Client, other: Client) -> None:
    def told(**bounds: str) -> list[str]:
        request = events_pb2.SubscribeRequest()
        metadata = [(NAMESPACE_HEADER, client.namespace), *((f"moorage-events-{key}", bounds[key]) for key in bounds)]
        return [e.topic for e in EventsStub(client._channel).Subscribe(request, metadata=metadata)]

    start = time.time_ns()
    publish(client, "/first")
    publish(other, "/elsewhere")
    middle = time.time_ns()
    publish(client, "/second")
    assert told(since=str(start), until=str(time.time_ns())) == ["/first", "/second"]
    assert told(since=str(middle), until="0") == []
    assert told(since=str(start), until=str(middle)) == ["/first"]
    assert told(until=str(time.time_ns() + 50_000_000)) == []
    for wrong in ("soon", "-1", "9" * 20):
        assert failure(lambda wrong=wrong: told(until=wrong))[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_subscriber_that_does_not_read_is_cut_off(client: Client, stores: tuple[Graph, Sequence[Service]]) -> None:
    stream = client.events.Subscribe(events_pb2.SubscribeRequest())
    publisher = threading.Thread(target=flood, args=(stores[0].require(PluginType.EVENT), client.namespace))
    publisher.start()
    next(stream)
    publisher.join()
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "events behind" in caught.value.details()


def flood(bus: EventBus, namespace: str) -> None:
    """A second of single events at first, for whoever is about to listen; then more than windows and queue hold."""
    event = events_types_pb2.TaskOOM(container_id="x" * 10_000)
    for _ in range(100):
        bus.publish(namespace, "/tasks/oom", event)
        time.sleep(0.01)
    for _ in range(6000):
        bus.publish(namespace, "/tasks/oom", event)


def test_a_subscriber_that_vanishes_is_forgotten(client: Client, stores: tuple[Graph, Sequence[Service]]) -> None:
    exchange = stores[0].require(PluginType.EVENT)
    before = set(exchange._subscriptions)
    with listening(client):
        [mine] = set(exchange._subscriptions) - before
    wait_until(lambda: mine not in exchange._subscriptions, "it is forgotten")


def test_malformed_input(client: Client, nobody: Client) -> None:
    assert failure(lambda: publish(client, "tasks"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert failure(lambda: publish(nobody, "/tasks"))[0] is grpc.StatusCode.FAILED_PRECONDITION
    request = events_pb2.SubscribeRequest(filters=["topic="])
    code, message = failure(lambda: next(client.events.Subscribe(request)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "'topic='" in message
    assert client.namespace not in message
