"""Requests as nobody should send them: empty, unknown, absurd. Each has the right code, and nothing stays of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from moorage.cri.rpcs import Streaming, Unary
from moorage.cri.services import ImageService, RuntimeService
from moorage_api.errors import Code, MoorageError
from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config, until
from support.daemon import Daemon
from support.traces import traces

RPCS = {
    name: rpc
    for service in (RuntimeService, ImageService)
    for name, rpc in vars(service).items()
    if isinstance(rpc, Unary | Streaming)
}
ENDLESS = {"GetContainerEvents"}
# What may follow from a request that makes no sense: never a defect, a panic, or silence.
SOUND = {
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.FAILED_PRECONDITION,
    Code.ALREADY_EXISTS,
    Code.UNIMPLEMENTED,
    Code.UNAVAILABLE,
}
IDS = {"pod_sandbox_id", "container_id"}
IDEMPOTENT = {"StopPodSandbox", "RemovePodSandbox", "StopContainer", "RemoveContainer"}
STRINGS = [
    "",
    "..",
    "../../../etc/passwd",
    "a/../../b",
    "/",
    "\0",
    "x" * 300,
    "x" * (1 << 20),
    "ünïcödé\u202e",
    "%s%n",
    "-rf",
    "127.0.0.1:1/a:b",
]
NUMBERS = [0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 12345]
ROUNDS = 6


@pytest.fixture(scope="module")
def client(shared_daemon: Daemon, busybox: str) -> Iterator[CriClient]:
    with CriClient(shared_daemon.address) as opened:
        opened.pull(busybox)
        yield opened
        opened.remove_all()


@pytest.fixture(scope="module")
def target(client: CriClient, busybox: str) -> tuple[str, str]:
    """A pod and a running container of it, at which requests are aimed."""
    client.remove_pod(client.run_pod(pod_config()))
    config = pod_config(network=cri_pb2.NODE)
    pod = client.run_pod(config)
    return pod, client.start(pod, config, container_config(busybox, "sleep", "1000"))


@pytest.fixture
def unchanged(client: CriClient, shared_daemon: Daemon, target: tuple[str, str]) -> Iterator[None]:
    """After a test there is what there was before it."""
    until(lambda: not any(shared_daemon.network.bridge in line for line in traces(shared_daemon)))
    held = traces(shared_daemon)
    yield
    for container in client.ListContainers().containers:
        if container.id != target[1]:
            client.remove(container.id)
    for pod in client.ListPodSandbox().items:
        if pod.id != target[0]:
            client.remove_pod(pod.id)
    until(lambda: traces(shared_daemon) - held == set())
    assert client.execute(target[1], "true").exit_code == 0


def _call(client: CriClient, name: str, request: Message) -> Code | None:
    """The code of its failure; None where it succeeds."""
    try:
        answer = getattr(client, name)(request, deadline=20)
        if isinstance(RPCS[name], Streaming) and name not in ENDLESS:
            list(answer)
        elif name in ENDLESS:
            answer.cancel()
    except MoorageError as error:
        return error.code
    return None


@pytest.mark.parametrize("name", sorted(set(RPCS) - ENDLESS))
def test_an_empty_request(client: CriClient, name: str) -> None:
    code = _call(client, name, RPCS[name].request())
    assert code is None or code in SOUND, code
    if IDS & set(RPCS[name].request.DESCRIPTOR.fields_by_name):
        assert code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("unknown", ["0" * 64, "..", "../x", "no such", "\u202e", "y" * (1 << 20)])
def test_an_unknown_id(client: CriClient, unknown: str) -> None:
    for name, rpc in RPCS.items():
        for field in IDS & set(rpc.request.DESCRIPTOR.fields_by_name):
            request = rpc.request(**{field: unknown})
            if name in ("ExecSync", "Exec"):
                request = rpc.request(**{field: unknown, "cmd": ["true"]})
            code = _call(client, name, request)
            if name in IDEMPOTENT:
                assert code is None, name
            else:
                assert code in SOUND, (name, code)


def _absurd(chance: random.Random, message: Message, depth: int = 0) -> None:
    """Fill some of a message's fields with what should not be there."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.6:
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            _absurd_message(chance, message, field, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend(_value(chance, field) for _ in range(chance.randrange(4)))
        else:
            setattr(message, field.name, _value(chance, field))


def _absurd_message(chance: random.Random, message: Message, field: FieldDescriptor, depth: int) -> None:
    if depth > 4:
        return
    if field.message_type.GetOptions().map_entry:
        values = getattr(message, field.name)
        key = _value(chance, field.message_type.fields_by_name["key"])
        if field.message_type.fields_by_name["value"].type != FieldDescriptor.TYPE_MESSAGE:
            values[key] = _value(chance, field.message_type.fields_by_name["value"])
    elif field.is_repeated:
        for _ in range(chance.randrange(3)):
            _absurd(chance, getattr(message, field.name).add(), depth + 1)
    else:
        _absurd(chance, getattr(message, field.name), depth + 1)


def _value(chance: random.Random, field: FieldDescriptor) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = chance.choice(STRINGS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice([*field.enum_type.values_by_number, 77])
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return chance.choice([0.0, -1.0, float("nan"), float("inf")])
    bits = 32 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
    number = chance.choice(NUMBERS)
    if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return abs(number) % 2**bits
    return max(-(2 ** (bits - 1)), min(number, 2 ** (bits - 1) - 1))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", sorted(set(RPCS) - ENDLESS))
def test_absurd_requests(client: CriClient, name: str, target: tuple[str, str]) -> None:
    """Made from the protocol's own description: whatever fields it has."""
    chance = random.Random(name)
    for _ in range(ROUNDS):
        request = RPCS[name].request()
        _absurd(chance, request)
        # Half of them about what is there.
        if chance.random() < 0.5 and name not in IDEMPOTENT:
            for field, id in zip(("pod_sandbox_id", "container_id"), target, strict=True):
                if field in request.DESCRIPTOR.fields_by_name:
                    setattr(request, field, id)
        code = _call(client, name, request)
        assert code is None or code in SOUND | {Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED}, (code, request)
