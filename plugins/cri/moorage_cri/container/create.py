"""CreateContainer."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from functools import partial

from moorage_api import containers
from moorage_api.errors import FailedPrecondition, InvalidArgument, NotFound
from moorage_api.linux import idmapped
from moorage_api.mounts import Mount
from moorage_api.oci.spec import Spec, encode
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri import events, labels, names
from moorage_cri.config import RuntimeHandler
from moorage_cri.container import identity, image_volumes, mounts, resources, selinux, signals, spec, volumes
from moorage_cri.container.host import host
from moorage_cri.context import Cri
from moorage_cri.deadlines import deadline
from moorage_cri.image.cache import CachedImage
from moorage_cri.image.unpacking import with_layers
from moorage_cri.metadata import encode_container
from moorage_cri.model import Container, Sandbox
from moorage_cri.nri import lifecycle
from moorage_cri.sandbox import files, userns
from moorage_cri.sandbox.spec import check_map
from moorage_cri.undo import Undo


class CreateContainer:
    """Makes containers: a snapshot of the image, the specification, the record."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri
        self._accounts = identity.AccountCache()

    async def CreateContainer(
        self, request: cri_pb2.CreateContainerRequest, call: Call
    ) -> cri_pb2.CreateContainerResponse:
        return cri_pb2.CreateContainerResponse(container_id=await self.make(request, call))

    async def make(self, request: cri_pb2.CreateContainerRequest, call: Call, *, restored: bool = False) -> str:
        """Returns its id. `restored`: it will be given what its processes are restored from, and is not started without."""
        cri = self._cri
        sandbox = cri.sandboxes.get(request.pod_sandbox_id)
        check(request.config)
        handler = cri.config.handler(sandbox.handler)
        image = cri.images.resolve(request.config.image.image)
        container = _container(request, sandbox, image, cri.snapshotter_of(handler))
        container.restored = restored
        wishes = lifecycle.Wishes(cri)
        cri.container_names.reserve(container.name, container.id)
        try:
            async with (
                Undo(f"container {container.id}") as undo,
                deadline(call, cri.config.timeout, "making the container"),
                sandbox.lock,
            ):
                if not cri.is_ready(sandbox) or sandbox.id not in cri.sandboxes:
                    raise FailedPrecondition(f"pod {sandbox.id} is not ready")
                userns.check_same(sandbox.namespace_options, request.config.linux.security_context.namespace_options)
                await self._make(container, sandbox, image, handler, undo, wishes)
        except BaseException:
            cri.container_names.release(container.name, container.id)
            raise
        cri.container_names.made(container.name)
        events.tell(cri, container, events.CREATED)
        await lifecycle.post_create(cri, container)
        await wishes.granted()
        return container.id

    async def _make(
        self,
        container: Container,
        sandbox: Sandbox,
        image: CachedImage,
        handler: RuntimeHandler,
        undo: Undo,
        wishes: lifecycle.Wishes,
    ) -> None:
        cri = self._cri
        folder = cri.container_folder(container.id)
        undo.push("folder", lambda: cri.run(files.remove, folder))
        undo.push("snapshot", lambda: cri.run(remove_snapshot, cri, container))
        undo.push("image volumes", lambda: cri.run(image_volumes.remove, cri, container))
        undo.push("record", lambda: cri.run(remove_record, cri, container.id))
        target_pid = self._target_pid(container)
        if not image_volumes.has_any(container):
            async with cri.nri.gate:
                at_once = partial(self._make_at_once, container, sandbox, image, handler, target_pid)
                if cri.nri.idle and await cri.run(at_once):
                    cri.containers.add(container.id, container)
                    return
        rootfs = await self._rootfs(container, sandbox, image)
        mounted = await image_volumes.make(cri, container, sandbox)
        specify = partial(self._specify, container, sandbox, image, handler, rootfs, mounted, target_pid)
        async with cri.nri.gate:
            undo.push("NRI plugins", lambda: lifecycle.forget_container(cri, container))
            specification = await cri.run(specify)
            await lifecycle.create(cri, sandbox, container, specification, wishes)
            await cri.run(self._record, container, sandbox, image, specification)
            cri.containers.add(container.id, container)

    def _make_at_once(
        self, container: Container, sandbox: Sandbox, image: CachedImage, handler: RuntimeHandler, target_pid: int
    ) -> bool:
        """All of it in one trip to a thread, which is enough where nobody is asked in between; False, and nothing done,
        where the image has to be unpacked first."""
        try:
            rootfs = self._prepare(container, sandbox, image)
        except NotFound:
            return False
        mounted = list(container.config.mounts)
        specification = self._specify(container, sandbox, image, handler, rootfs, mounted, target_pid)
        self._record(container, sandbox, image, specification)
        return True

    async def _rootfs(self, container: Container, sandbox: Sandbox, image: CachedImage) -> list[Mount]:
        """The container's snapshot."""
        prepare = partial(self._prepare, container, sandbox, image)
        return await with_layers(self._cri, image, container.snapshotter, prepare)

    def _prepare(self, container: Container, sandbox: Sandbox, image: CachedImage) -> list[Mount]:
        """The folder, by which an interrupted creation is known after a crash, and then the snapshot; under the pod's lease,
        which keeps it until the record refers to it. The mounts show the files with the ids that they have in the image."""
        cri = self._cri
        cri.container_folder(container.id).mkdir(mode=0o750, parents=True, exist_ok=True)
        leased = cri.core.namespaced(cri.k8s.namespace, container.sandbox_id)
        user = sandbox.user_namespace
        labels = user.labels if user is not None else None
        rootfs = leased.snapshotter(container.snapshotter).prepare(container.id, image.chain_id, labels)
        if user is not None and not any(map(idmapped.is_mapped, rootfs)):
            raise FailedPrecondition(f"snapshotter {container.snapshotter!r} has no ID-mapped snapshots")
        return [idmapped.without_mapping(mount) for mount in rootfs]

    def _target_pid(self, container: Container) -> int:
        """The process whose PID namespace is wanted: that of another, running container of the pod."""
        options = container.config.linux.security_context.namespace_options
        if options.pid != cri_pb2.TARGET:
            return 0
        target = self._cri.containers.get(options.target_id)
        if target.sandbox_id != container.sandbox_id:
            raise InvalidArgument(f"target container {target.id} is of another pod")
        if not target.running:
            raise FailedPrecondition(f"target container {target.id} is not running")
        return target.run.pid

    def _specify(
        self,
        container: Container,
        sandbox: Sandbox,
        image: CachedImage,
        handler: RuntimeHandler,
        rootfs: list[Mount],
        mounted: list[cri_pb2.Mount],
        target_pid: int,
    ) -> Spec:
        cri = self._cri
        context = container.config.linux.security_context
        accounts = self._accounts.get(image.id, rootfs)
        user = identity.resolve(context, image.config.config.user, accounts)
        container.user.CopyFrom(cri_pb2.LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=user.groups))
        inputs = spec.Inputs(
            sandbox=sandbox,
            container=container,
            image=image.config.config,
            user=user,
            config=cri.config,
            handler=handler,
            host=host(),
            cdi=cri.cdi,
            mounts=mounted,
            binds=[*pod_binds(cri, sandbox, container.config), *self._volumes(container, image, rootfs)],
            target_pid=target_pid,
        )
        return spec.build(inputs)

    def _record(self, container: Container, sandbox: Sandbox, image: CachedImage, specification: Spec) -> None:
        self._cri.k8s.containers.create(
            containers.Container(
                id=container.id,
                runtime=sandbox.runtime,
                spec=encode(specification),
                image=container.image_name,
                snapshotter=container.snapshotter,
                snapshot_key=container.id,
                labels=labels.record_labels(labels.KIND_CONTAINER, image.config.config.labels, container.config.labels),
                extensions={labels.CONTAINER_METADATA: encode_container(container)},
                sandbox_id=sandbox.id,
            )
        )

    def _volumes(self, container: Container, image: CachedImage, rootfs: list[Mount]) -> list[mounts.Bind]:
        wanted = volumes.declared(image.config.config.volumes, container.config.mounts)
        if not wanted or self._cri.config.ignore_image_defined_volumes:
            return []
        return volumes.make(wanted, self._cri.container_folder(container.id) / "volumes", rootfs)


def check(config: cri_pb2.ContainerConfig) -> None:
    """`InvalidArgument` for a container that cannot be made, whatever the state of the host."""
    name = config.metadata.name
    if not config.HasField("metadata") or not name:
        raise InvalidArgument("the container's metadata must have a name")
    if len(name) > 253 or "/" in name or "\0" in name:
        raise InvalidArgument(f"{name[:80]!r} cannot be the name of a container")
    check_map(config.labels, "labels")
    check_map(config.annotations, "annotations")
    mounts.check(config.mounts)
    identity.check(config.linux.security_context)
    selinux.check(config.linux.security_context.selinux_options)
    resources.check(config.linux.resources)
    if os.path.isabs(config.log_path) or ".." in config.log_path.split("/"):
        raise InvalidArgument(f"log_path {config.log_path[:80]!r} leads out of the pod's log directory")


def pod_binds(cri: Cri, sandbox: Sandbox, config: cri_pb2.ContainerConfig) -> list[mounts.Bind]:
    """The pod's files in /etc, read-only in a read-only root file system, and its /dev/shm."""
    mode = "ro" if config.linux.security_context.readonly_rootfs else "rw"
    folder = cri.sandbox_folder(sandbox.id)
    binds = [
        mounts.Bind(f"/etc/{name}", str(folder / name), ("rbind", "rprivate", mode))
        for name in (files.HOSTNAME, files.HOSTS, files.RESOLV_CONF)
    ]
    shared = sandbox.namespace_options.ipc == cri_pb2.NODE
    shm = "/dev/shm" if shared else f"{sandbox.path}/shm"
    # In a user namespace a remount has to repeat the flags that the mount has.
    return [*binds, mounts.Bind("/dev/shm", shm, ("rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"))]


def remove_snapshot(cri: Cri, container: Container) -> None:
    """Remove a container's root file system; one that is not there does not matter."""
    with suppress(NotFound):
        cri.k8s.snapshotter(container.snapshotter).remove(container.id)


def remove_record(cri: Cri, id: str) -> None:
    """Remove a container's record; one that is not there does not matter."""
    with suppress(NotFound):
        cri.k8s.containers.delete(id)


def _container(
    request: cri_pb2.CreateContainerRequest, sandbox: Sandbox, image: CachedImage, snapshotter: str
) -> Container:
    config, pod = request.config, sandbox.config
    metadata = config.metadata
    directory = request.sandbox_config.log_directory or pod.log_directory
    return Container(
        id=secrets.token_hex(32),
        name=names.container_name(
            metadata.name, metadata.attempt, pod.metadata.name, pod.metadata.namespace, pod.metadata.uid
        ),
        sandbox_id=sandbox.id,
        config=config,
        image_id=image.id,
        image_name=(image.repo_tags or image.repo_digests or [image.id])[0],
        log_path=os.path.join(directory, config.log_path) if directory and config.log_path else "",
        stop_signal=signals.stop_signal(config.stop_signal, image.config.config.stop_signal),
        snapshotter=snapshotter,
        created_at=time.time_ns(),
    )
