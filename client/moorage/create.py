"""Containers from images: a snapshot, a specification, a record; all of them, or none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moorage import labels, names, volumes
from moorage.container import ContainerHandle
from moorage.find import find
from moorage.image_config import ResolvedImage
from moorage.network.attach import prepare, share
from moorage.options import EXTENSION, ContainerOptions, pack_options
from moorage.rootfs import is_root, user_of_mounts
from moorage.session import to_its_end
from moorage.signals import signal_number
from moorage.spec import build_spec, health_of
from moorage.sweep import is_abandoned, sweep
from moorage.unpack import unpack
from moorage_api import health, native
from moorage_api.containers import Container, Runtime
from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MoorageError, NotFound
from moorage_api.mounts import Mount
from moorage_api.native import RestartPolicy
from moorage_api.oci import spec as oci
from moorage_api.types import TypedValue

if TYPE_CHECKING:
    from moorage.client import Client, Defaults

_NAME_TRIES = 20
LOG_FILE = "0.log"


@dataclass(frozen=True, slots=True)
class Created:
    """A new container, and how its root file system is mounted."""

    handle: ContainerHandle
    mounts: Sequence[Mount]


async def create(client: Client, image: ResolvedImage, options: ContainerOptions) -> Created:
    """Make a container's record. On an error nothing stays: neither record nor snapshot.

    `AlreadyExists` for the name, with its holder; `NotFound` for a user that the image does not know;
    `InvalidArgument` for options that do not make sense.
    """
    if options.name:
        await _check_free(client, names.check_name(options.name))
    id = names.random_id()
    options, other = await _network(client, options)
    restart = RestartPolicy.parse(options.restart)
    defaults = await client.defaults()
    options = volumes.with_names(options, image.config.config.volumes if defaults.volumes else ())
    spec = build_spec(options, image.config.config, id)
    if options.auto_remove and restart.name != "no":
        raise InvalidArgument("a container that is to be removed at its end cannot be restarted: leave one of them out")
    record = Container(
        id=id,
        runtime=Runtime(options.runtime),
        image=image.image.name,
        snapshotter=options.snapshotter or defaults.snapshotter,
        snapshot_key=id,
        labels=_labels(client, image, options, defaults.logs, id),
        extensions=_extensions(image, options),
    )
    try:
        async with client.leased() as leased:
            mounts = await _prepare(leased, image, record.snapshotter, id)
            await _set_user(spec, mounts, options.user or image.config.config.user, options.group_add)
            await asyncio.to_thread(volumes.mount, spec, options, defaults.volumes, client.namespace, mounts)
            record = await asyncio.to_thread(_equip, record, spec, options, other, defaults, client.namespace)
            created = await _store(client, replace(record, spec=oci.encode(spec)), options)
    except BaseException:
        await _take_back(client, record)
        raise
    return Created(ContainerHandle(client, created), mounts)


def _equip(
    record: Container,
    spec: oci.Spec,
    options: ContainerOptions,
    other: Container | None,
    defaults: Defaults,
    namespace: str,
) -> Container:
    """Make what is in the container's own folder: its input, the files of its network. Blocks."""
    folder = native.own_folder(record.labels, record.id)
    if options.stdin and folder:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        os.mkfifo(os.path.join(folder, native.INPUT), 0o600)
    prepare(spec, options, defaults.networks, namespace, record.id, record.labels[labels.NAME], folder)
    if other is None:
        return record
    share(spec, native.own_folder(other.labels, other.id))
    return replace(record, labels={**record.labels, native.NETWORK_OF: other.id})


async def _take_back(client: Client, record: Container) -> None:
    """Remove what there is of a container whose making has failed, or was given up when it had been made."""
    with contextlib.suppress(MoorageError):
        await client.containers.delete(record.id)
    with contextlib.suppress(MoorageError):
        await client.snapshots(record.snapshotter).remove(record.id)
    folder = native.own_folder(record.labels, record.id)
    if folder:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _network(client: Client, options: ContainerOptions) -> tuple[ContainerOptions, Container | None]:
    """The options with the network of another container by its id, and that container, whose host name this one has,
    too; None for any other network."""
    if not options.network.startswith(native.CONTAINER):
        return options, None
    other = (await find(client, options.network.removeprefix(native.CONTAINER))).record
    hostname = options.hostname or str(oci.decode(other.spec).get("hostname", ""))
    return replace(options, network=f"{native.CONTAINER}{other.id}", hostname=hostname), other


async def _prepare(leased: Client, image: ResolvedImage, snapshotter: str, key: str) -> list[Mount]:
    """The container's own snapshot; the image is unpacked first where this snapshotter does not have it."""
    snapshots = leased.snapshots(snapshotter)
    try:
        return await snapshots.prepare(key, image.chain_id)
    except NotFound:
        await unpack(leased.session, image, snapshotter)
        return await snapshots.prepare(key, image.chain_id)


async def _set_user(spec: oci.Spec, mounts: Sequence[Mount], user: str, groups: Sequence[str]) -> None:
    try:
        who = await asyncio.to_thread(user_of_mounts, mounts, user, groups)
    except FailedPrecondition:
        # Without the right to mount, root is still root.
        if groups or not is_root(user):
            raise
        return
    oci.set_user(spec, who.uid, who.gid, who.groups)


def _labels(client: Client, image: ResolvedImage, options: ContainerOptions, logs: str, id: str) -> dict[str, str]:
    found = labels.fitting(image.config.config.labels) | dict(options.labels)
    found[labels.NAME] = options.name or names.random_name()
    if logs:
        found[labels.LOG_PATH] = os.path.join(logs, client.namespace, id, LOG_FILE)
    if options.anonymous_volumes:
        found[native.ANONYMOUS_VOLUMES] = " ".join(options.anonymous_volumes)
    if options.auto_remove:
        found[labels.AUTO_REMOVE] = "true"
    policy = RestartPolicy.parse(options.restart)
    if policy.name != "no":
        found[native.RESTART_POLICY] = str(policy)
        if logs:
            found[native.RESTART_LOG] = f"cri://{found[labels.LOG_PATH]}"
    if options.stop_timeout is not None:
        found[native.STOP_TIMEOUT] = f"{options.stop_timeout:g}"
    stop_signal = options.stop_signal or image.config.config.stop_signal
    if stop_signal:
        found[labels.STOP_SIGNAL] = str(signal_number(stop_signal))
    return found


def _extensions(image: ResolvedImage, options: ContainerOptions) -> dict[str, TypedValue]:
    found = {EXTENSION: pack_options(options)}
    check = health_of(options, image.config.config)
    if health.command(check) and check is not None:
        found[health.EXTENSION] = health.pack(check)
    return found


async def _check_free(client: Client, name: str) -> None:
    """`AlreadyExists`, with the holder. The daemon checks again; this is for the better message, and for daemons that
    know nothing of names."""
    holders = await client.containers.list(f'labels."{labels.NAME}"=="{name}"')
    if not holders:
        return
    holder = ContainerHandle(client, holders[0])
    if is_abandoned(holder.record, await holder.process()):
        await sweep(client, holders)
    else:
        raise AlreadyExists(
            f"the name {name!r} is in use by container {holders[0].id[:12]}: "
            "remove that container, or choose another name"
        )


async def _store(client: Client, record: Container, options: ContainerOptions) -> Container:
    for tries in range(_NAME_TRIES):
        try:
            return await to_its_end(client.containers.create(record))
        except AlreadyExists:
            if options.name:
                raise
            record = replace(record, labels={**record.labels, labels.NAME: names.random_name(tries)})
    raise AlreadyExists("no free name was found for the container: give it one")
