"""Volumes whose files are those of an image (`Mount.image`): mounted read-only on the host for as long as the container is
there, and bind-mounted into it, as a whole or from a folder in it on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from moorage_api.errors import FailedPrecondition, InvalidArgument, MoorageError, NotFound
from moorage_api.linux import idmapped, mount, syscalls
from moorage_api.mounts import Mount
from moorage_api.wire import cri_pb2
from moorage_cri.context import Cri
from moorage_cri.image.unpacking import with_layers
from moorage_cri.model import Container, Sandbox

# The word that a kubelet knows this failure by.
_FAILED = "ImageVolumeMountFailed"
_DETACH = syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW


def check(volume: cri_pb2.Mount) -> None:
    """`InvalidArgument` for an image volume that cannot be made."""
    where = f"mount {volume.container_path}"
    if not volume.image.image:
        raise InvalidArgument(f"{where}: the image of the volume is not named")
    if volume.host_path:
        raise InvalidArgument(f"{where}: an image volume has no host_path")
    if not volume.readonly:
        raise InvalidArgument(f"{where}: an image volume has to be readonly")
    if volume.propagation != cri_pb2.PROPAGATION_PRIVATE:
        raise InvalidArgument(f"{where}: an image volume has private propagation")
    if volume.image_sub_path.startswith("/") or ".." in volume.image_sub_path.split("/"):
        raise InvalidArgument(f"{where}: image_sub_path {volume.image_sub_path[:80]!r} is not a path within the image")


def has_any(container: Container) -> bool:
    """Whether a container has image volumes."""
    return any(mount.HasField("image") for mount in container.config.mounts)


async def make(cri: Cri, container: Container, sandbox: Sandbox) -> list[cri_pb2.Mount]:
    """Mount the image volumes of a container; returns all its mounts, with the host's paths in place of the images.

    The container's configuration gets the ids of the images, for its status. On an error some may be mounted: `remove`
    takes that back. `NotFound` for an image or a folder in it that is not there.
    """
    found = []
    for number, wanted in enumerate(container.config.mounts):
        if not wanted.HasField("image"):
            found.append(wanted)
            continue
        try:
            source = await _make_one(cri, container, sandbox, wanted, number)
        except MoorageError as error:
            raise type(error)(f"{_FAILED}: mount {wanted.container_path}: {error.message}") from error
        found.append(_bind(wanted, source))
    return found


def remove(cri: Cri, container: Container) -> None:
    """Unmount and remove the image volumes of a container; what is not there does not matter. This does I/O."""
    if not has_any(container):
        return
    unmount(cri, container.id)
    snapshotter = cri.k8s.snapshotter(container.snapshotter)
    for number, wanted in enumerate(container.config.mounts):
        if wanted.HasField("image"):
            with suppress(NotFound):
                snapshotter.remove(_key(container.id, number))


def unmount(cri: Cri, id: str) -> list[str]:
    """Unmount the image volumes of a container that may have no record; returns the keys of their snapshots."""
    folder = cri.image_volumes_folder(id)
    names = _names(folder)
    mount.unmount_recursive(str(folder), _DETACH)
    for name in names:
        (folder / name).rmdir()
    with suppress(FileNotFoundError):
        folder.rmdir()
    return [_key(id, int(name)) for name in names]


def _names(folder: Path) -> Iterable[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _key(id: str, number: int) -> str:
    return f"{id}-image-volume-{number}"


async def _make_one(cri: Cri, container: Container, sandbox: Sandbox, wanted: cri_pb2.Mount, number: int) -> str:
    image = cri.images.resolve(wanted.image.image)
    wanted.image.image_ref = image.id
    folder = cri.image_volumes_folder(container.id) / str(number)
    user = sandbox.user_namespace

    def view() -> list[Mount]:
        leased = cri.core.namespaced(cri.k8s.namespace, sandbox.id)
        labels = user.labels if user is not None else None
        return leased.snapshotter(container.snapshotter).view(_key(container.id, number), image.chain_id, labels)

    # The folder comes first: by it the snapshot is found after a crash.
    folder.mkdir(mode=0o711, parents=True)
    mounts = await with_layers(cri, image, container.snapshotter, view)
    return await cri.run(_mount, mounts, folder, wanted.image_sub_path, f"{sandbox.path}/ns/user" if user else "")


def _mount(mounts: list[Mount], folder: Path, sub_path: str, namespace: str) -> str:
    """Mount at `folder`; returns the path of the folder `sub_path` in it. A mapping is that of the pod's own namespace."""
    try:
        if namespace:
            _mount_mapped(mounts, str(folder), namespace)
        else:
            mount.mount_all(mounts, str(folder))
    except OSError as error:
        raise FailedPrecondition(f"the image cannot be mounted: {error}") from error
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = syscalls.openat2(root, sub_path or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            return os.readlink(f"/proc/self/fd/{found}")
        finally:
            os.close(found)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"the image has no folder {sub_path!r}") from error
    finally:
        os.close(root)


def _mount_mapped(mounts: list[Mount], folder: str, namespace: str) -> None:
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for each in mounts:
            mount.mount(each, folder, namespace=fd if idmapped.is_mapped(each) else None)
    finally:
        os.close(fd)


def _bind(wanted: cri_pb2.Mount, source: str) -> cri_pb2.Mount:
    made = cri_pb2.Mount()
    made.CopyFrom(wanted)
    made.ClearField("image")
    # The mount on the host is mapped already.
    made.ClearField("uidMappings")
    made.ClearField("gidMappings")
    made.host_path = source
    return made
