"""The tasks and sandbox services of a running daemon, as a client of containerd's API sees them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from moorage_api.oci import spec as oci
from moorage_api.wire import (
    cgroups_v1_pb2,
    cgroups_v2_pb2,
    containers_pb2,
    containers_pb2_grpc,
    introspection_pb2,
    introspection_pb2_grpc,
    moorage_shim_pb2,
    sandbox_pb2,
    sandbox_pb2_grpc,
    task_types_pb2,
    tasks_pb2,
    tasks_pb2_grpc,
    types_pb2,
)
from moorage_api.wire.runc_options_pb2 import Options
from support import criu
from support.daemon import Daemon
from support.images import BUSYBOX

RUNTIME = "io.containerd.runc.v2"
SANDBOX_OPTIONS = moorage_shim_pb2.SandboxOptions


class Client:
    """A client in one namespace."""

    def __init__(self, daemon: Daemon, namespace: str, rootfs: Path) -> None:
        self.cgroup = daemon.cgroup_parent
        self.rootfs = rootfs
        self._headers = (("containerd-namespace", namespace),)
        self.channel = grpc.insecure_channel(f"unix://{daemon.address}")
        self.containers = self._bound(containers_pb2_grpc.ContainersStub)
        self.tasks = self._bound(tasks_pb2_grpc.TasksStub)
        self.store = self._bound(sandbox_pb2_grpc.StoreStub)
        self.introspection = self._bound(introspection_pb2_grpc.IntrospectionStub)
        self.controller = self._bound(sandbox_pb2_grpc.ControllerStub)

    def _bound(self, stub: Callable[[grpc.Channel], Any]) -> Any:
        return _Bound(stub(self.channel), self._headers)

    def container(self, id: str, *args: str, sandbox: str = "") -> str:
        spec = oci.encode(oci.default_spec(args=args, cgroups_path=f"/{self.cgroup}/{id}"))
        container = containers_pb2.Container(
            id=id,
            runtime=containers_pb2.Container.Runtime(name=RUNTIME),
            spec=AnyMessage(type_url=spec.type_url, value=spec.value),
            sandbox=sandbox,
        )
        self.containers.Create(containers_pb2.CreateContainerRequest(container=container))
        return id

    def create(self, id: str, **fields: Any) -> int:
        mount = types_pb2.Mount(type="bind", source=str(self.rootfs), options=["rbind", "rw"])
        request = tasks_pb2.CreateTaskRequest(container_id=id, rootfs=[mount], **fields)
        return int(self.tasks.Create(request).pid)

    def start(self, id: str, *args: str) -> int:
        """A container's record, its task created and started."""
        self.container(id, *(args or ("sleep", "1000")))
        self.create(id)
        return int(self.tasks.Start(tasks_pb2.StartRequest(container_id=id)).pid)

    def end(self, id: str) -> tasks_pb2.DeleteResponse:
        self.tasks.Kill(tasks_pb2.KillRequest(container_id=id, signal=signal.SIGKILL))
        self.tasks.Wait(tasks_pb2.WaitRequest(container_id=id))
        answer: tasks_pb2.DeleteResponse = self.tasks.Delete(tasks_pb2.DeleteTaskRequest(container_id=id))
        return answer


class _Bound:
    """A stub whose calls carry the namespace, and a deadline."""

    def __init__(self, stub: Any, headers: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._headers = headers

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        method = getattr(self._stub, name)
        return lambda request: method(request, metadata=self._headers, timeout=30)


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp", "run"):
        (root / name).mkdir()
    shutil.copy2(BUSYBOX, root / "bin/busybox")
    for name in ("sh", "sleep", "true", "cat"):
        (root / "bin" / name).symlink_to("busybox")
    return root


_numbers = iter(range(1, 1000))


@pytest.fixture
def client(shared_daemon: Daemon, rootfs: Path) -> Iterator[Client]:
    client = Client(shared_daemon, f"tasks-{next(_numbers)}", rootfs)
    yield client
    client.channel.close()


def failure(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def test_a_task(client: Client) -> None:
    pid = client.start("web", "sh", "-c", "exit 9")
    waited = client.tasks.Wait(tasks_pb2.WaitRequest(container_id="web"))
    assert waited.exit_status == 9
    process = client.tasks.Get(tasks_pb2.GetRequest(container_id="web")).process
    assert (process.id, process.pid, process.status) == ("web", pid, task_types_pb2.STOPPED)
    assert process.exited_at == waited.exited_at
    assert list(client.tasks.List(tasks_pb2.ListTasksRequest()).tasks) == [process]
    deleted = client.tasks.Delete(tasks_pb2.DeleteTaskRequest(container_id="web"))
    assert (deleted.exit_status, deleted.pid, deleted.exited_at) == (9, pid, waited.exited_at)
    code, message = failure(lambda: client.tasks.Get(tasks_pb2.GetRequest(container_id="web")))
    assert (code, message) == (grpc.StatusCode.NOT_FOUND, "task web not found")


def test_an_exec_with_its_input_closed(client: Client, tmp_path: Path) -> None:
    client.start("web")
    spec = oci.encode(oci.exec_process(oci.default_spec(args=("cat",)), ("cat",)))
    stdin, stdout = tmp_path / "in", tmp_path / "out"
    os.mkfifo(stdin)
    stdout.touch()
    reading = os.open(stdin, os.O_RDWR | os.O_NONBLOCK)
    client.tasks.Exec(
        tasks_pb2.ExecProcessRequest(
            container_id="web",
            exec_id="copy",
            stdin=str(stdin),
            stdout=f"file://{stdout}",
            stderr=f"file://{stdout}",
            spec=AnyMessage(type_url=spec.type_url, value=spec.value),
        )
    )
    client.tasks.Start(tasks_pb2.StartRequest(container_id="web", exec_id="copy"))
    os.write(reading, b"through the pipe\n")
    os.close(reading)
    client.tasks.CloseIO(tasks_pb2.CloseIORequest(container_id="web", exec_id="copy", stdin=True))
    assert client.tasks.Wait(tasks_pb2.WaitRequest(container_id="web", exec_id="copy")).exit_status == 0
    deleted = client.tasks.DeleteProcess(tasks_pb2.DeleteProcessRequest(container_id="web", exec_id="copy"))
    assert (deleted.id, deleted.exit_status) == ("copy", 0)
    assert stdout.read_text() == "through the pipe\n"
    client.end("web")


def test_pids_metrics_pause_and_update(client: Client) -> None:
    pid = client.start("web")
    client.start("other")
    pids = client.tasks.ListPids(tasks_pb2.ListPidsRequest(container_id="web")).processes
    assert [process.pid for process in pids] == [pid]
    metrics = client.tasks.Metrics(tasks_pb2.MetricsRequest()).metrics
    assert {metric.id for metric in metrics} == {"web", "other"}
    assert all(metric.data.type_url.startswith("io.containerd.cgroups.v") for metric in metrics)
    only = client.tasks.Metrics(tasks_pb2.MetricsRequest(filters=["id==web"])).metrics
    assert [metric.id for metric in only] == ["web"]
    client.tasks.Pause(tasks_pb2.PauseTaskRequest(container_id="web"))
    assert client.tasks.Get(tasks_pb2.GetRequest(container_id="web")).process.status == task_types_pb2.PAUSED
    client.tasks.Resume(tasks_pb2.ResumeTaskRequest(container_id="web"))
    limits = AnyMessage(
        type_url="types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", value=b'{"pids":{"limit":77}}'
    )
    client.tasks.Update(tasks_pb2.UpdateTaskRequest(container_id="web", resources=limits))
    found = list(Path("/sys/fs/cgroup").glob(f"**/{client.cgroup}/web/pids.max"))
    assert [path.read_text().strip() for path in found] == ["77"]
    client.end("web")
    client.end("other")


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda c: c.tasks.Start(tasks_pb2.StartRequest(container_id="none")), grpc.StatusCode.NOT_FOUND),
        (lambda c: c.tasks.Wait(tasks_pb2.WaitRequest(container_id="none")), grpc.StatusCode.NOT_FOUND),
        (lambda c: c.create("none"), grpc.StatusCode.NOT_FOUND),
        (lambda c: c.tasks.Metrics(tasks_pb2.MetricsRequest(filters=["id=="])), grpc.StatusCode.INVALID_ARGUMENT),
        (
            lambda c: c.tasks.DeleteProcess(tasks_pb2.DeleteProcessRequest(container_id="none")),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            lambda c: c.tasks.Exec(tasks_pb2.ExecProcessRequest(container_id="none", exec_id="a")),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            lambda c: c.tasks.Update(tasks_pb2.UpdateTaskRequest(container_id="none")),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
)
def test_requests_that_must_fail(client: Client, call: Callable[[Client], Any], code: grpc.StatusCode) -> None:
    assert failure(lambda: call(client))[0] == code


def test_a_checkpoint_without_criu(client: Client) -> None:
    if not criu.problem():
        pytest.skip("criu works here")
    client.start("web")
    before = set(Path("/tmp").glob("moorage-checkpoint-*"))
    code, _ = failure(lambda: client.tasks.Checkpoint(tasks_pb2.CheckpointTaskRequest(container_id="web")))
    assert code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNKNOWN)
    assert set(Path("/tmp").glob("moorage-checkpoint-*")) <= before
    assert client.tasks.Get(tasks_pb2.GetRequest(container_id="web")).process.status == task_types_pb2.RUNNING
    client.end("web")


def test_the_runtime_of_a_request_replaces_that_of_the_record(client: Client) -> None:
    client.container("web", "true")
    code, message = failure(lambda: client.create("web", runtime_path="/no/such/shim"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "/no/such/shim" in message


def test_a_sandbox(client: Client) -> None:
    sandbox = types_pb2.Sandbox(
        sandbox_id="pod", runtime=types_pb2.Sandbox.Runtime(name=RUNTIME), labels={"app": "web"}, sandboxer="shim"
    )
    stored = client.store.Create(sandbox_pb2.StoreCreateRequest(sandbox=sandbox)).sandbox
    assert stored.created_at.seconds > 0
    assert list(client.store.List(sandbox_pb2.StoreListRequest(filters=["labels.app==web"])).list) == [stored]
    sandbox.labels["app"] = "db"
    update = sandbox_pb2.StoreUpdateRequest(sandbox=sandbox, fields=["labels.app"])
    updated = client.store.Update(update).sandbox
    assert (updated.labels["app"], updated.created_at) == ("db", stored.created_at)
    assert client.store.Get(sandbox_pb2.StoreGetRequest(sandbox_id="pod")).sandbox == updated
    options = AnyMessage(
        type_url=SANDBOX_OPTIONS.DESCRIPTOR.full_name,
        value=SANDBOX_OPTIONS(namespaces=["network", "uts"], hostname="pod").SerializeToString(),
    )
    created = sandbox_pb2.ControllerCreateRequest(sandbox_id="pod", options=options)
    client.controller.Create(created)
    assert failure(lambda: client.controller.Create(created))[0] == grpc.StatusCode.ALREADY_EXISTS
    started = client.controller.Start(sandbox_pb2.ControllerStartRequest(sandbox_id="pod"))
    status = client.controller.Status(sandbox_pb2.ControllerStatusRequest(sandbox_id="pod"))
    assert (status.state, status.pid, status.address) == ("SANDBOX_READY", started.pid, started.address)
    client.container("inside", "sleep", "1000", sandbox="pod")
    client.create("inside")
    client.tasks.Start(tasks_pb2.StartRequest(container_id="inside"))
    platform = client.controller.Platform(sandbox_pb2.ControllerPlatformRequest(sandbox_id="pod")).platform
    assert platform.os == "linux"
    metrics = client.controller.Metrics(sandbox_pb2.ControllerMetricsRequest(sandbox_id="pod")).metrics
    assert metrics.id == "pod"
    assert metrics.timestamp.seconds >= started.created_at.seconds
    kind = {1: cgroups_v1_pb2, 2: cgroups_v2_pb2}[1 if metrics.data.type_url.endswith("v1.Metrics") else 2]
    assert kind.Metrics.FromString(metrics.data.value).pids.current == 1
    client.controller.Update(sandbox_pb2.ControllerUpdateRequest(sandbox_id="pod", sandbox=sandbox))
    client.controller.Stop(sandbox_pb2.ControllerStopRequest(sandbox_id="pod"))
    assert client.controller.Wait(sandbox_pb2.ControllerWaitRequest(sandbox_id="pod")).exited_at.seconds > 0
    assert client.tasks.Delete(tasks_pb2.DeleteTaskRequest(container_id="inside")).exit_status == 137
    after = failure(lambda: client.controller.Metrics(sandbox_pb2.ControllerMetricsRequest(sandbox_id="pod")))
    assert after[0] == grpc.StatusCode.FAILED_PRECONDITION
    client.controller.Shutdown(sandbox_pb2.ControllerShutdownRequest(sandbox_id="pod"))
    gone = failure(lambda: client.controller.Status(sandbox_pb2.ControllerStatusRequest(sandbox_id="pod")))
    assert gone[0] == grpc.StatusCode.NOT_FOUND
    client.store.Delete(sandbox_pb2.StoreDeleteRequest(sandbox_id="pod"))


def test_what_a_runtime_says_of_itself(client: Client) -> None:
    def ask(runtime: str, options: Options) -> types_pb2.RuntimeInfo:
        wanted = types_pb2.RuntimeRequest(runtime_path=runtime)
        wanted.options.Pack(options)
        request = introspection_pb2.PluginInfoRequest(type="io.containerd.runtime.v2", id="task")
        request.options.Pack(wanted)
        answer = client.introspection.PluginInfo(request)
        here = subprocess.run(
            ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
        ).stdout.strip()
        assert [(platform.os, platform.architecture) for platform in answer.plugin.platforms] == [("linux", here)]
        assert answer.extra.type_url == types_pb2.RuntimeInfo.DESCRIPTOR.full_name
        return types_pb2.RuntimeInfo.FromString(answer.extra.value)

    info = ask("", Options(binary_name="runc"))
    assert info.name == "io.containerd.moorage.v2"
    assert Options.FromString(info.options.value).binary_name == "runc"
    said = subprocess.run(["runc", "features"], capture_output=True, check=True).stdout
    assert info.features.type_url.endswith("runtime-spec/1/features/Features")
    assert json.loads(info.features.value) == json.loads(said)
    # A shim from before the question was there.
    code, message = failure(lambda: ask(shutil.which("containerd-shim-runc-v2") or "", Options()))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "containerd-shim-runc-v2 -info failed" in message
    assert failure(lambda: ask("io.containerd.none.v1", Options()))[0] == grpc.StatusCode.NOT_FOUND
    other = introspection_pb2.PluginInfoRequest(type="io.containerd.runtime.v2", id="task")
    other.options.Pack(Options())
    assert failure(lambda: client.introspection.PluginInfo(other))[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_sandboxes_that_must_fail(client: Client) -> None:
    start = sandbox_pb2.ControllerStartRequest(sandbox_id="none")
    assert failure(lambda: client.controller.Start(start))[0] == grpc.StatusCode.NOT_FOUND
    create = sandbox_pb2.ControllerCreateRequest(sandbox_id="none")
    assert failure(lambda: client.controller.Create(create))[0] == grpc.StatusCode.NOT_FOUND
    metrics = sandbox_pb2.ControllerMetricsRequest(sandbox_id="none")
    assert failure(lambda: client.controller.Metrics(metrics))[0] == grpc.StatusCode.NOT_FOUND
    client.controller.Stop(sandbox_pb2.ControllerStopRequest(sandbox_id="none"))
