"""Shims for tests: bundles around a busybox, a ttrpc client, and a daemon that only listens for events."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from moorage_api import ttrpc
from moorage_api.shim import Bootstrap, ShimRequest
from moorage_api.wire import events_ttrpc_pb2, events_types_pb2
from moorage_api.wire import shim_v3_pb2 as pb
from moorage_api.wire.runc_options_pb2 import Options
from moorage_shim.launcher import ZygoteLauncher
from support.leftovers import cgroups, mounts_below
from support.session import new_id

TASK = "containerd.task.v3.Task"
APPLETS = (
    "cat",
    "echo",
    "head",
    "hostname",
    "id",
    "ip",
    "ls",
    "seq",
    "sh",
    "sleep",
    "stty",
    "sync",
    "tail",
    "tr",
    "yes",
)
NAMESPACE = "testing"


class ShimClient:
    """A ttrpc connection on which any number of calls may wait."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._protocol = ttrpc.Client()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._reading = asyncio.create_task(self._read(reader))

    @classmethod
    async def connect(cls, address: str) -> ShimClient:
        return cls(*await asyncio.open_unix_connection(address.removeprefix("unix://")))

    async def raw(self, service: str, method: str, payload: bytes) -> bytes:
        stream, data = self._protocol.call(service, method, payload)
        future = self._waiting[stream] = asyncio.get_running_loop().create_future()
        self._writer.write(data)
        return await asyncio.wait_for(future, 60)

    async def call(self, method: str, request: Message, service: str = TASK) -> Any:
        """The answer; its type is found by the method's name in the request's file."""
        data = await self.raw(service, method, request.SerializeToString())
        return _answer_type(request, method).FromString(data)

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65536):
            for event in self._protocol.receive(data):
                future = self._waiting.pop(event.stream)
                if isinstance(event, ttrpc.ResponseReceived) and event.error is None:
                    future.set_result(event.payload)
                elif isinstance(event, ttrpc.ResponseReceived):
                    future.set_exception(event.error or AssertionError())
        for future in self._waiting.values():
            future.set_exception(EOFError("the shim closed the connection"))


def _answer_type(request: Message, method: str) -> type[Message]:
    from google.protobuf.message_factory import GetMessageClass

    for service in request.DESCRIPTOR.file.services_by_name.values():
        if method in service.methods_by_name:
            return GetMessageClass(service.methods_by_name[method].output_type)
    raise AssertionError(method)


class Daemon:
    """Takes events as the daemon does, and remembers them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[tuple[str, Message]] = []
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ttrpc.Server()
        self._writers.add(writer)
        while data := await reader.read(65536):
            for event in protocol.receive(data):
                assert isinstance(event, ttrpc.RequestReceived)
                envelope = events_ttrpc_pb2.ForwardRequest.FromString(event.payload).envelope
                assert envelope.namespace == NAMESPACE
                kind = getattr(events_types_pb2, envelope.event.type_url.rpartition(".")[2])
                self.events.append((envelope.topic, kind.FromString(envelope.event.value)))
                self._changed.set()
                writer.write(protocol.respond(event.stream, b""))
        writer.close()

    @property
    def topics(self) -> list[str]:
        return [topic for topic, _ in self.events]

    async def event(self, topic: str, **fields: object) -> Any:
        """The first event with a topic and these fields, waited for."""
        async with asyncio.timeout(20):
            while True:
                for found, event in self.events:
                    if found == topic and all(getattr(event, key) == value for key, value in fields.items()):
                        return event
                self._changed.clear()
                await self._changed.wait()


class Node:
    """A folder with bundles, a zygote, and the shims that it forked; leaves nothing behind."""

    def __init__(self, runtime: str, cache: Path) -> None:
        self.runtime = runtime
        self.folder = Path(tempfile.mkdtemp(prefix="mshim-"))
        self.cgroup = f"moorage-shim-test-{new_id()}"
        self.launcher = ZygoteLauncher(cache=cache)
        self.daemon = Daemon(self.folder / "events")
        self.shims: list[Bootstrap] = []
        self.clients: list[ShimClient] = []
        self.bundles: dict[str, Path] = {}

    def bundle(
        self,
        id: str,
        *args: str,
        terminal: bool = False,
        process: Mapping[str, Any] | None = None,
        linux: Mapping[str, Any] | None = None,
        rootfs: bool = True,
    ) -> Path:
        """An OCI bundle that runs `args`."""
        path = self.folder / "io.containerd.runtime.v2.task" / NAMESPACE / id
        path.mkdir(parents=True)
        if rootfs:
            busybox_rootfs(path / "rootfs")
        else:
            (path / "rootfs").mkdir()
        config = configuration(args, f"/{self.cgroup}/{id}", terminal)
        config["process"] |= process or {}
        config["linux"] |= linux or {}
        if not any(namespace["type"] == "uts" for namespace in config["linux"]["namespaces"]):
            del config["hostname"]
        (path / "config.json").write_text(json.dumps(config))
        self.bundles[id] = path
        return path

    def request(self, id: str) -> ShimRequest:
        return ShimRequest(
            id=id,
            namespace=NAMESPACE,
            bundle=self.bundles[id],
            ttrpc_address=str(self.daemon.path),
            daemon_address=str(self.folder / "daemon"),
            socket_dir=self.folder / "s",
        )

    async def shim(self, id: str) -> ShimClient:
        """Start a shim, and connect."""
        bootstrap = await self.launcher.start(self.request(id))
        self.shims.append(bootstrap)
        client = await ShimClient.connect(bootstrap.address)
        self.clients.append(client)
        return client

    def create(self, id: str, **fields: Any) -> pb.CreateTaskRequest:
        """The request for a task of a bundle."""
        request = pb.CreateTaskRequest(id=id, bundle=str(self.bundles[id]), **fields)
        request.options.type_url = Options.DESCRIPTOR.full_name
        request.options.value = Options(binary_name=self.runtime).SerializeToString()
        return request

    async def task(self, id: str, *args: str, **fields: Any) -> ShimClient:
        """A shim with a running task."""
        self.bundle(id, *args, terminal=bool(fields.get("terminal")))
        client = await self.shim(id)
        await client.call("Create", self.create(id, **fields))
        await client.call("Start", pb.StartRequest(id=id))
        return client

    async def exec(self, client: ShimClient, id: str, exec_id: str, *args: str, **fields: Any) -> int:
        """Add a process and start it; returns its pid."""
        request = pb.ExecProcessRequest(id=id, exec_id=exec_id, **fields)
        request.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
        request.spec.value = json.dumps(process_spec(args, bool(fields.get("terminal")))).encode()
        await client.call("Exec", request)
        return int((await client.call("Start", pb.StartRequest(id=id, exec_id=exec_id))).pid)

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        for shim in self.shims:
            kill(shim.pid)
        for id in self.bundles:
            if (self.bundles[id] / "moorage.json").exists():
                await self.launcher.delete(self.request(id))
        await self.launcher.close()
        await self.daemon.stop()
        left = [str(folder) for folder in cgroups(self.cgroup) if folder.name != self.cgroup]
        for folder in cgroups(self.cgroup):
            folder.rmdir()
        mounts = mounts_below(self.folder)
        assert not mounts, mounts
        shutil.rmtree(self.folder)
        assert not left, left


def busybox_rootfs(folder: Path) -> None:
    """A root file system of busybox alone."""
    (folder / "bin").mkdir(parents=True)
    for name in ("dev", "etc", "proc", "sys", "tmp"):
        (folder / name).mkdir()
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    for applet in APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")


def process_spec(args: Sequence[str], terminal: bool = False) -> dict[str, Any]:
    """An OCI `process`."""
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "noNewPrivileges": True,
    }


def configuration(args: Sequence[str], cgroup: str, terminal: bool) -> dict[str, Any]:
    """An OCI configuration with namespaces of its own."""
    return {
        "ociVersion": "1.0.2",
        "process": process_spec(args, terminal),
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"],
            },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        },
    }


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        import select

        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(10_000), f"process {pid} survives"
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def name_of(pid: int) -> str:
    """The kernel's name of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def worker_name(shim: int) -> str:
    """The name of the worker of a shim of ours."""
    return f"moorage-{shim}"


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until the condition holds; `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def workers(shim: int) -> list[int]:
    """The workers that a shim has at this moment: one, or none while it rests."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if name_of(pid) == worker_name(shim)]
