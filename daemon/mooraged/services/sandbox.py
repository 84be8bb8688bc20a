"""`containerd.services.sandbox.v1`: records of sandboxes, and the controller that runs them.

The controller's Create only remembers; Start makes the shim and the sandbox. So a created sandbox that was never started
holds nothing but its record.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from moorage_api.containers import Runtime
from moorage_api.convert import any_message, mounts_from_wire, platform_to_wire, timestamp, typed_value
from moorage_api.core import Core
from moorage_api.errors import AlreadyExists, InvalidArgument, NotFound
from moorage_api.oci.platforms import default_platform
from moorage_api.rpc import Call, Service
from moorage_api.sandboxes import Sandbox, SandboxController, SandboxSpec
from moorage_api.wire import moorage_shim_pb2, types_pb2
from moorage_api.wire import sandbox_pb2 as pb
from mooraged.services.handlers import Handlers

_CREATED_MAX = 4096
_STATES = {"ready": "SANDBOX_READY", "notready": "SANDBOX_NOTREADY"}


class Store(Handlers):
    """The handlers of the records."""

    async def Create(self, request: pb.StoreCreateRequest, call: Call) -> pb.StoreCreateResponse:
        sandbox = sandbox_from_wire(request.sandbox)
        stored = await self._run(call, lambda space: space.sandboxes.create(sandbox))
        return pb.StoreCreateResponse(sandbox=sandbox_to_wire(stored))

    async def Update(self, request: pb.StoreUpdateRequest, call: Call) -> pb.StoreUpdateResponse:
        sandbox, fields = sandbox_from_wire(request.sandbox), list(request.fields)
        stored = await self._run(call, lambda space: space.sandboxes.update(sandbox, fields))
        return pb.StoreUpdateResponse(sandbox=sandbox_to_wire(stored))

    async def Delete(self, request: pb.StoreDeleteRequest, call: Call) -> pb.StoreDeleteResponse:
        await self._run(call, lambda space: space.sandboxes.delete(request.sandbox_id))
        return pb.StoreDeleteResponse()

    async def List(self, request: pb.StoreListRequest, call: Call) -> pb.StoreListResponse:
        found = await self._run(call, lambda space: space.sandboxes.list(list(request.filters)))
        return pb.StoreListResponse(list=map(sandbox_to_wire, found))

    async def Get(self, request: pb.StoreGetRequest, call: Call) -> pb.StoreGetResponse:
        found = await self._run(call, lambda space: space.sandboxes.get(request.sandbox_id))
        return pb.StoreGetResponse(sandbox=sandbox_to_wire(found))


class Controller:
    """The handlers of the controller."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._created: OrderedDict[tuple[str, str], SandboxSpec] = OrderedDict()

    async def Create(self, request: pb.ControllerCreateRequest, call: Call) -> pb.ControllerCreateResponse:
        key = call.namespace, request.sandbox_id
        running = {status.id for status in self._controller(call).list()}
        if key in self._created or request.sandbox_id in running:
            raise AlreadyExists(f"sandbox {request.sandbox_id} already exists")
        self._created[key] = await self._spec(request, call)
        while len(self._created) > _CREATED_MAX:
            self._created.popitem(last=False)
        return pb.ControllerCreateResponse(sandbox_id=request.sandbox_id)

    async def Start(self, request: pb.ControllerStartRequest, call: Call) -> pb.ControllerStartResponse:
        spec = self._created.pop((call.namespace, request.sandbox_id), None)
        if spec is None:
            raise NotFound(f"sandbox {request.sandbox_id} has not been created")
        status = await self._controller(call).start(spec)
        return pb.ControllerStartResponse(
            sandbox_id=status.id,
            pid=status.pid,
            created_at=timestamp(status.created_at),
            address=f"ttrpc+{status.address}",
            version=3,
        )

    async def Platform(self, request: pb.ControllerPlatformRequest, call: Call) -> pb.ControllerPlatformResponse:
        self._controller(call).status(request.sandbox_id)
        return pb.ControllerPlatformResponse(platform=platform_to_wire(default_platform()))

    async def Stop(self, request: pb.ControllerStopRequest, call: Call) -> pb.ControllerStopResponse:
        await self._controller(call).stop(request.sandbox_id, float(request.timeout_secs or 10))
        return pb.ControllerStopResponse()

    async def Wait(self, request: pb.ControllerWaitRequest, call: Call) -> pb.ControllerWaitResponse:
        status = await self._controller(call).wait(request.sandbox_id)
        return pb.ControllerWaitResponse(exit_status=status.exit_status, exited_at=timestamp(status.exited_at))

    async def Status(self, request: pb.ControllerStatusRequest, call: Call) -> pb.ControllerStatusResponse:
        status = self._controller(call).status(request.sandbox_id)
        return pb.ControllerStatusResponse(
            sandbox_id=status.id,
            pid=status.pid,
            state=_STATES[status.state],
            created_at=timestamp(status.created_at),
            exited_at=timestamp(status.exited_at),
            address=f"ttrpc+{status.address}" if status.address else "",
            version=3,
        )

    async def Shutdown(self, request: pb.ControllerShutdownRequest, call: Call) -> pb.ControllerShutdownResponse:
        self._created.pop((call.namespace, request.sandbox_id), None)
        await self._controller(call).shutdown(request.sandbox_id)
        return pb.ControllerShutdownResponse()

    async def Metrics(self, request: pb.ControllerMetricsRequest, call: Call) -> pb.ControllerMetricsResponse:
        found = await self._controller(call).metrics(request.sandbox_id)
        metric = types_pb2.Metric(timestamp=timestamp(found.at), id=found.id, data=any_message(found.data))
        return pb.ControllerMetricsResponse(metrics=metric)

    async def Update(self, request: pb.ControllerUpdateRequest, call: Call) -> pb.ControllerUpdateResponse:
        """Nothing of a running sandbox follows its record."""
        self._controller(call).status(request.sandbox_id)
        return pb.ControllerUpdateResponse()

    def _controller(self, call: Call) -> SandboxController:
        return self._core.namespaced(call.namespace).sandbox_controller

    async def _spec(self, request: pb.ControllerCreateRequest, call: Call) -> SandboxSpec:
        """The sandbox of the request, or of the store; what to make for it is in the options."""
        if request.HasField("sandbox"):
            sandbox = sandbox_from_wire(request.sandbox)
        else:
            space = self._core.namespaced(call.namespace)
            sandbox = await self._core.run(space.sandboxes.get, request.sandbox_id)
        options = moorage_shim_pb2.SandboxOptions()
        if request.HasField("options"):
            options = _options(request.options.type_url, request.options.value)
        return SandboxSpec(
            id=request.sandbox_id,
            runtime=sandbox.runtime,
            hostname=options.hostname,
            namespaces=tuple(options.namespaces),
            sysctls=dict(options.sysctls),
            shm_size=options.shm_size,
            annotations=dict(request.annotations),
            netns=request.netns_path,
            rootfs=tuple(mounts_from_wire(request.rootfs)),
        )


def sandbox_to_wire(sandbox: Sandbox) -> types_pb2.Sandbox:
    return types_pb2.Sandbox(
        sandbox_id=sandbox.id,
        runtime=types_pb2.Sandbox.Runtime(name=sandbox.runtime.name, options=any_message(sandbox.runtime.options)),
        spec=any_message(sandbox.spec),
        labels=sandbox.labels,
        created_at=timestamp(sandbox.created_at),
        updated_at=timestamp(sandbox.updated_at),
        extensions={name: message for name, value in sandbox.extensions.items() if (message := any_message(value))},
        sandboxer=sandbox.sandboxer,
    )


def sandbox_from_wire(sandbox: types_pb2.Sandbox) -> Sandbox:
    return Sandbox(
        id=sandbox.sandbox_id,
        runtime=Runtime(sandbox.runtime.name, typed_value(sandbox.runtime.options)),
        spec=typed_value(sandbox.spec),
        labels=dict(sandbox.labels),
        extensions={name: value for name, any in sandbox.extensions.items() if (value := typed_value(any))},
        sandboxer=sandbox.sandboxer,
    )


def _options(type_url: str, value: bytes) -> moorage_shim_pb2.SandboxOptions:
    expected = moorage_shim_pb2.SandboxOptions.DESCRIPTOR.full_name
    if type_url.rpartition("/")[2] != expected:
        raise InvalidArgument(f"sandbox options are {type_url!r}: expected {expected}")
    try:
        return moorage_shim_pb2.SandboxOptions.FromString(value)
    except DecodeError as error:
        raise InvalidArgument(f"sandbox options are no {expected}") from error


def service(core: Core) -> Sequence[Service]:
    """What the daemon serves."""
    services = pb.DESCRIPTOR.services_by_name
    return [Service(services["Store"], Store(core)), Service(services["Controller"], Controller(core))]
