"""RestorePod."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.checkpoint import layout, rootfs
from moorage_cri.checkpoint.criu import absolute, refuse_options, require_criu
from moorage_cri.checkpoint.layout import Saved
from moorage_cri.container import restored
from moorage_cri.container.create import CreateContainer
from moorage_cri.context import Cri
from moorage_cri.deadlines import deadline
from moorage_cri.sandbox.run import RunPodSandbox
from moorage_cri.sandbox.stop import StopPodSandbox
from moorage_cri.undo import Undo

# What describes the process of the checkpoint, which is not made anew.
_PROCESS = ("command", "args", "working_dir", "envs", "tty")
_Pair = tuple[cri_pb2.ContainerConfig, int, Saved]


class RestorePod:
    """Makes a pod whose containers go on, once they are started, where those of a checkpoint were."""

    def __init__(self, cri: Cri, run: RunPodSandbox, create: CreateContainer, stop: StopPodSandbox) -> None:
        self._cri = cri
        self._run = run
        self._create = create
        self._stop = stop

    async def RestorePod(self, request: cri_pb2.RestorePodRequest, call: Call) -> cri_pb2.RestorePodResponse:
        """The containers are made, and not started. On an error nothing stays."""
        cri = self._cri
        folder = absolute(request.checkpoint_path, "checkpoint_path")
        refuse_options(request.options)
        cri.config.handler(request.runtime_handler)
        require_criu()
        pairs = _paired(request.container_configs, await cri.run(layout.read, folder))
        for config, _, saved in pairs:
            _check_image(cri, config, saved)
        answer = cri_pb2.RestorePodResponse()
        async with Undo("pod from a checkpoint") as undo, deadline(call, cri.config.timeout, "restoring the pod"):
            wanted = cri_pb2.RunPodSandboxRequest(config=request.config, runtime_handler=request.runtime_handler)
            pod = answer.pod_sandbox_id = (await self._run.RunPodSandbox(wanted, call)).pod_sandbox_id
            removal = cri_pb2.RemovePodSandboxRequest(pod_sandbox_id=pod)
            undo.push("pod", lambda: self._stop.RemovePodSandbox(removal, call))
            for config, number, saved in pairs:
                id = await self._container(pod, request.config, config, call)
                await cri.run(_fill, cri, id, folder / str(number), saved)
                answer.restored_containers.add(name=saved.name, container_id=id)
        return answer

    async def _container(
        self, pod: str, pod_config: cri_pb2.PodSandboxConfig, config: cri_pb2.ContainerConfig, call: Call
    ) -> str:
        request = cri_pb2.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=pod_config)
        return await self._create.make(request, call, restored=True)


def _fill(cri: Cri, id: str, folder: Path, saved: Saved) -> None:
    """The container's files, and then what its processes are restored from."""
    rootfs.load(cri, cri.containers.get(id), saved.digest, folder / layout.ROOTFS)
    restored.keep(cri.container_folder(id), folder / layout.IMAGES)


def _paired(configs: Sequence[cri_pb2.ContainerConfig], saved: Sequence[Saved]) -> list[_Pair]:
    """Each configuration with the number of its container in the checkpoint. `InvalidArgument` where they are not those of
    the same containers, or of other processes."""
    by_name = {each.name: (number, each) for number, each in enumerate(saved)}
    names = [config.metadata.name for config in configs]
    if len(set(names)) < len(names) or set(names) != set(by_name):
        raise InvalidArgument(f"the checkpoint is of the containers {sorted(by_name)}, not of {sorted(names)}")
    for config in configs:
        before = by_name[config.metadata.name][1].configuration
        for field in _PROCESS:
            if getattr(config, field) != getattr(before, field):
                raise InvalidArgument(f"container {config.metadata.name} had another {field} at its checkpoint")
    return [(config, *by_name[config.metadata.name]) for config in configs]


def _check_image(cri: Cri, config: cri_pb2.ContainerConfig, saved: Saved) -> None:
    found = cri.images.resolve(config.image.image).id
    if found != saved.image:
        raise FailedPrecondition(f"container {saved.name} had image {saved.image} at its checkpoint, not {found}")
