"""A plugin of NRI, as its author's program would be: the protocol over a socket, from the project's own protocol files."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Protocol, Self

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from moorage_api import ttrpc
from moorage_api.closing import Closing
from moorage_api.errors import MoorageError, Unimplemented
from moorage_api.wire import cri_pb2
from moorage_api.wire import nri_pb2 as pb
from support.cri import CriClient, container_config, pod_config

PLUGIN, RUNTIME = 1, 2
_HEADER = struct.Struct(">II")
_METHODS = pb.DESCRIPTOR.services_by_name["Plugin"].methods_by_name

Handler = Callable[[Any], Message | None]
"""Gets the request; returns the answer, None for an empty one. A `MoorageError` is the plugin's own error."""


class Join(Protocol):
    """Makes a plugin and has it join."""

    def __call__(self, name: str = "test", index: str = "10", **options: Any) -> NriPlugin: ...


class Trunk:
    """The multiplexed socket: writes frames, and reads them until the peer closes it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = threading.Lock()

    def send(self, number: int, data: bytes) -> None:
        self.write(_HEADER.pack(number, len(data)) + data)

    def write(self, data: bytes) -> None:
        """Any bytes, as they are."""
        with self._lock:
            self._socket.sendall(data)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        buffer = b""
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                return
            if not data:
                return
            buffer += data
            while len(buffer) >= _HEADER.size:
                number, length = _HEADER.unpack_from(buffer)
                if len(buffer) < _HEADER.size + length:
                    break
                yield number, buffer[_HEADER.size : _HEADER.size + length]
                buffer = buffer[_HEADER.size + length :]

    def close(self) -> None:
        with self._lock:
            # The peer may have been first.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()


class NriPlugin(Closing):
    """Connects at once, where it is not connected yet. `handlers` are the plugin's methods by name; what has none
    answers nothing in particular, and `unimplemented` names those that it does not have. Every call is kept in `calls`,
    in order.

    `events` is the mask of what it asks for; by default that of its handlers and of all notifications.
    """

    def __init__(
        self,
        where: str | socket.socket,
        name: str = "test",
        index: str = "10",
        events: int = -1,
        unimplemented: tuple[str, ...] = (),
        **handlers: Handler,
    ) -> None:
        self.name, self.index = name, index
        self.calls: list[tuple[str, Any]] = []
        self.closed = threading.Event()
        self.configuration: pb.ConfigureRequest | None = None
        self._events = events if events >= 0 else mask(*_NOTIFIED, *handlers)
        self._handlers: Mapping[str, Handler] = handlers
        self._unimplemented = unimplemented
        self._changed = threading.Condition()
        self._client, self._server = ttrpc.Client(), ttrpc.Server()
        self._answers: dict[int, Future[bytes]] = {}
        self.trunk = Trunk(where if isinstance(where, socket.socket) else _connect(where))
        self._reader = threading.Thread(target=self._read, name=f"nri {name}", daemon=True)
        self._reader.start()

    def register(self) -> Self:
        """Say its name. Errors are the runtime's."""
        request = pb.RegisterPluginRequest(plugin_name=self.name, plugin_idx=self.index, NRI_version="v0.12.2")
        self.call("RegisterPlugin", request)
        return self

    def join(self, seconds: float = 30) -> Self:
        """Register, and return when it has been synchronised and takes part."""
        self.register()
        self.wait_for("Synchronize", lambda request: not request.more, seconds)
        return self

    def call(self, method: str, request: Message) -> bytes:
        """Call the runtime."""
        stream, data = self._client.call("nri.pkg.api.v1alpha1.Runtime", method, request.SerializeToString())
        answer = self._answers[stream] = Future()
        self.trunk.send(RUNTIME, data)
        return answer.result(30)

    def update(self, *updates: pb.ContainerUpdate, evict: tuple[pb.ContainerEviction, ...] = ()) -> list[str]:
        """Update containers unasked; returns the ids of those that failed."""
        request = pb.UpdateContainersRequest(update=updates, evict=evict)
        answer = pb.UpdateContainersResponse.FromString(self.call("UpdateContainers", request))
        return [each.container_id for each in answer.failed]

    def seen(self, method: str) -> list[Any]:
        """The requests of one method so far."""
        with self._changed:
            return [request for name, request in self.calls if name == method]

    def story(self, id: str) -> list[str]:
        """What it was told of one pod or container, without its synchronisation."""
        with self._changed:
            return [name for name, request in self.calls if name not in _ABOUT_ALL and _subject(request) == id]

    def wait_for(self, method: str, fits: Callable[[Any], bool] = lambda _: True, seconds: float = 30) -> Any:
        """The first request of a method that fits."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for name, request in self.calls:
                    if name == method and fits(request):
                        return request
                if self.closed.is_set() or not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"{self.name} saw no such {method}: {[name for name, _ in self.calls]}")

    def close(self) -> None:
        self.trunk.close()
        self._reader.join(30)

    def _read(self) -> None:
        for number, data in self.trunk.frames():
            if number == PLUGIN:
                for event in self._server.receive(data):
                    if isinstance(event, ttrpc.RequestReceived):
                        threading.Thread(target=self._serve, args=(event,), daemon=True).start()
            else:
                for answer in self._client.receive(data):
                    if isinstance(answer, ttrpc.ResponseReceived):
                        self._answered(answer)
        with self._changed:
            self.closed.set()
            self._changed.notify_all()

    def _answered(self, event: ttrpc.ResponseReceived) -> None:
        future = self._answers.pop(event.stream)
        if event.error is not None:
            future.set_exception(event.error)
        else:
            future.set_result(event.payload)

    def _serve(self, event: ttrpc.RequestReceived) -> None:
        method = _METHODS[event.method]
        request = GetMessageClass(method.input_type).FromString(event.payload)
        with self._changed:
            self.calls.append((event.method, request))
            self._changed.notify_all()
        try:
            answer = self._answer(event.method, request) or GetMessageClass(method.output_type)()
            data = self._server.respond(event.stream, answer.SerializeToString())
        except MoorageError as error:
            data = self._server.fail(event.stream, error)
        try:
            self.trunk.send(PLUGIN, data)
        except OSError:
            return  # It was closed meanwhile, which is what some tests are about.

    def _answer(self, method: str, request: Any) -> Message | None:
        if method in self._unimplemented:
            raise Unimplemented(f"{method} is not implemented")
        if method == "Configure":
            self.configuration = request
        if method in self._handlers:
            return self._handlers[method](request)
        if method == "Configure":
            return pb.ConfigureResponse(events=self._events)
        if method == "Synchronize":
            return pb.SynchronizeResponse(more=request.more)
        return None


class Pod:
    """A pod and the containers of it."""

    def __init__(self, cri: CriClient, image: str) -> None:
        self.cri, self._image, self._count = cri, image, 0
        self.config = pod_config(annotations={"test.example/pod": "yes"}, labels={"app": "x"})
        self.id = cri.run_pod(self.config)

    def container(self, *command: str, **fields: Any) -> cri_pb2.ContainerConfig:
        self._count += 1
        words = command or ("sleep", "1000")
        return container_config(self._image, *words, name=f"c{self._count}", **fields)

    def create(self, *command: str, **fields: Any) -> str:
        return self.cri.create(self.id, self.config, self.container(*command, **fields))

    def start(self, *command: str, **fields: Any) -> str:
        return self.cri.start(self.id, self.config, self.container(*command, **fields))

    def output(self, container: str, *command: str) -> str:
        """What a command in a container writes."""
        answer = self.cri.execute(container, *command)
        assert answer.exit_code == 0, answer
        return answer.stdout.decode()


def mask(*methods: str) -> int:
    """The mask of the events that these methods answer."""
    found = 0
    for method in methods:
        if method in _EVENTS:
            found |= 1 << (_EVENTS[method] - 1)
    return found


def _connect(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    return connection


def _subject(request: Any) -> str:
    return str(request.container.id if "container" in request.DESCRIPTOR.fields_by_name else request.pod.id)


_ABOUT_ALL = ("Configure", "Synchronize", "Shutdown", "StateChange")
_EVENTS = {
    "".join(word.capitalize() for word in name.split("_")): number
    for name, number in pb.Event.items()
    if name not in ("UNKNOWN", "LAST")
}
_NOTIFIED = [name for name in _EVENTS if name != "ValidateContainerAdjustment"]
