"""A client of the native API, the same for both sides: what it sends and waits for is what is measured."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from google.protobuf.any_pb2 import Any

from moorage_api.oci import spec as oci
from moorage_api.types import TypedValue
from moorage_api.wire import (
    containers_pb2,
    containers_pb2_grpc,
    content_pb2,
    content_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    leases_pb2,
    leases_pb2_grpc,
    runc_options_pb2,
    snapshots_pb2,
    snapshots_pb2_grpc,
    tasks_pb2,
    tasks_pb2_grpc,
)
from suite.calls import Connection, lean

CHUNK = 1 << 20
"""Bytes in a message of `Content.Write`, which is what Go clients send."""
_SECONDS = 60


class NativeClient:
    """The services of one daemon, in the namespace `bench`. What streams goes through grpcio, all else through `calls`."""

    def __init__(self, address: str, folder: Path, chain_id: str) -> None:
        self.headers = (("containerd-namespace", "bench"),)
        self._channel = grpc.insecure_channel(
            f"unix:{address}",
            options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)],
        )
        self._connection = Connection(address, _SECONDS)
        self._folder = folder
        self._chain_id = chain_id
        unary = lean(self._connection, self._channel)
        self._containers = containers_pb2_grpc.ContainersStub(unary)
        self._content = content_pb2_grpc.ContentStub(self._channel)
        self._events = events_pb2_grpc.EventsStub(self._channel)
        self._leases = leases_pb2_grpc.LeasesStub(unary)
        self._snapshots = snapshots_pb2_grpc.SnapshotsStub(unary)
        self._tasks = tasks_pb2_grpc.TasksStub(unary)
        self.use("runc")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._channel.close()

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """Keep what is made meanwhile from collection, as every client does."""
        self._leases.Create(leases_pb2.CreateRequest(id="bench"), metadata=self.headers)
        plain, self.headers = self.headers, (*self.headers, ("containerd-lease", "bench"))
        yield
        self.headers = plain
        self._leases.Delete(leases_pb2.DeleteRequest(id="bench", sync=True), metadata=plain)

    def use(self, runtime: str) -> None:
        """Have that OCI runtime run the containers made from now on."""
        options = runc_options_pb2.Options(binary_name=shutil.which(runtime) or runtime)
        self._runtime = Any(type_url="containerd.runc.v1.Options", value=options.SerializeToString())

    def create(self, id: str, *args: str) -> tuple[int, int]:
        """A snapshot, a container on it, and its task, not started. Returns the client's ends of its standard input and
        output, which the caller closes."""
        prepare = snapshots_pb2.PrepareSnapshotRequest(snapshotter="overlayfs", key=id, parent=self._chain_id)
        mounts = self._snapshots.Prepare(prepare, metadata=self.headers).mounts
        container = containers_pb2.Container(
            id=id,
            snapshotter="overlayfs",
            snapshot_key=id,
            runtime=containers_pb2.Container.Runtime(name="io.containerd.runc.v2", options=self._runtime),
            spec=_message(oci.encode(oci.default_spec(args=args, cgroups_path=f"/bench/{id}"))),
        )
        self._containers.Create(containers_pb2.CreateContainerRequest(container=container), metadata=self.headers)
        streams = self._fifo(id, "in", os.O_RDWR), self._fifo(id, "out", os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(streams[1], True)
        stdin, stdout = (str(self._folder / f"{id}-{name}") for name in ("in", "out"))
        task = tasks_pb2.CreateTaskRequest(
            container_id=id, rootfs=mounts, stdin=stdin, stdout=stdout, stderr=stdout, options=self._runtime
        )
        self._tasks.Create(task, metadata=self.headers)
        return streams

    def _fifo(self, id: str, name: str, flags: int) -> int:
        path = self._folder / f"{id}-{name}"
        os.mkfifo(path)
        return os.open(path, flags | os.O_CLOEXEC)

    def start(self, id: str) -> None:
        self._tasks.Start(tasks_pb2.StartRequest(container_id=id), metadata=self.headers)

    def wait(self, id: str, exec_id: str = "") -> None:
        request = tasks_pb2.WaitRequest(container_id=id, exec_id=exec_id)
        status = self._tasks.Wait(request, metadata=self.headers).exit_status
        if status and not exec_id:
            raise RuntimeError(f"{id} exited {status}")

    def remove(self, id: str) -> None:
        """All that `create` made."""
        self._tasks.Delete(tasks_pb2.DeleteTaskRequest(container_id=id), metadata=self.headers)
        self._snapshots.Remove(
            snapshots_pb2.RemoveSnapshotRequest(snapshotter="overlayfs", key=id), metadata=self.headers
        )
        self._containers.Delete(containers_pb2.DeleteContainerRequest(id=id), metadata=self.headers)
        for name in ("in", "out"):
            (self._folder / f"{id}-{name}").unlink()

    def kill(self, id: str) -> None:
        self._tasks.Kill(tasks_pb2.KillRequest(container_id=id, signal=9), metadata=self.headers)
        with contextlib.suppress(RuntimeError):
            self.wait(id)

    def run(self, id: str, *args: str) -> None:
        """From nothing to an exit status, and nothing left."""
        streams = self.create(id, *args)
        self.start(id)
        self.wait(id)
        self.remove(id)
        for stream in streams:
            os.close(stream)

    def execute(self, id: str, exec_id: str, *args: str) -> None:
        """One more process in a running task, to its end."""
        request = tasks_pb2.ExecProcessRequest(container_id=id, exec_id=exec_id, spec=_process(args))
        self._tasks.Exec(request, metadata=self.headers)
        self._tasks.Start(tasks_pb2.StartRequest(container_id=id, exec_id=exec_id), metadata=self.headers)
        self.wait(id, exec_id)
        self._tasks.DeleteProcess(
            tasks_pb2.DeleteProcessRequest(container_id=id, exec_id=exec_id), metadata=self.headers
        )

    def write(self, data: bytes) -> str:
        """Store a blob of these bytes; returns its digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()

        def messages() -> Iterator[content_pb2.WriteContentRequest]:
            for offset in range(0, len(data), CHUNK):
                yield content_pb2.WriteContentRequest(
                    action=content_pb2.WRITE,
                    ref=digest,
                    total=len(data),
                    offset=offset,
                    data=data[offset : offset + CHUNK],
                )
            yield content_pb2.WriteContentRequest(
                action=content_pb2.COMMIT, ref=digest, total=len(data), expected=digest, offset=len(data)
            )

        for _ in self._content.Write(messages(), metadata=self.headers, timeout=_SECONDS):
            pass
        return digest

    def read(self, digest: str) -> int:
        """Read a blob to its end; returns how many bytes came."""
        request = content_pb2.ReadContentRequest(digest=digest)
        return sum(len(m.data) for m in self._content.Read(request, metadata=self.headers, timeout=_SECONDS))

    def delete(self, digest: str) -> None:
        self._content.Delete(content_pb2.DeleteContentRequest(digest=digest), metadata=self.headers, timeout=_SECONDS)

    def fan_out(self, readers: int, events: int) -> FanOut:
        """That many readers, each of which waits for that many events; they listen when this returns."""
        return FanOut(self._events, self.headers, readers, events)


@functools.cache
def _process(args: tuple[str, ...]) -> Any:
    """What an exec runs."""
    return _message(oci.encode(oci.default_spec(args=args)["process"], oci.PROCESS_URL))


def _message(value: TypedValue) -> Any:
    return Any(type_url=value.type_url, value=value.value)


class FanOut:
    """Readers of events, a thread each."""

    def __init__(
        self,
        stub: events_pb2_grpc.EventsStub,
        headers: tuple[tuple[str, str], ...],
        readers: int,
        events: int,
    ) -> None:
        self._stub = stub
        self._headers = headers
        self._events = events
        self._ready = threading.Barrier(readers + 1)
        self._threads = [threading.Thread(target=self._read) for _ in range(readers)]
        for thread in self._threads:
            thread.start()
        # Each reader tells that it listens once it has heard an event of the kind that is sent until all do.
        while self._ready.n_waiting < readers:
            self._publish("/bench/ready")
        self._ready.wait(_SECONDS)

    def run(self) -> None:
        """Publish, and return when every reader has heard all of it."""
        for _ in range(self._events):
            self._publish("/bench/event")
        for thread in self._threads:
            thread.join(_SECONDS)
            if thread.is_alive():
                raise RuntimeError("a reader has not heard every event")

    def _publish(self, topic: str) -> None:
        event = Any(type_url="containerd.events.NamespaceCreate", value=b"\n\x05bench")
        self._stub.Publish(
            events_pb2.PublishRequest(topic=topic, event=event), metadata=self._headers, timeout=_SECONDS
        )

    def _read(self) -> None:
        request = events_pb2.SubscribeRequest(filters=['topic~="/bench/.*"'])
        heard, ready = 0, False
        stream = self._stub.Subscribe(request, metadata=self._headers, timeout=_SECONDS)
        for envelope in stream:
            if envelope.topic == "/bench/event":
                heard += 1
                if heard == self._events:
                    break
            elif not ready:
                ready = True
                self._ready.wait(_SECONDS)
        stream.cancel()
