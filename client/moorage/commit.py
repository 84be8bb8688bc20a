"""What a container has changed: as a layer, as an image, as a list."""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moorage.convert import from_descriptor, to_mount
from moorage.dangling import dangling_name
from moorage_api.errors import AlreadyExists, FailedPrecondition, NotFound
from moorage_api.images import Image
from moorage_api.mounts import Mount
from moorage_api.oci import build
from moorage_api.oci.image import OCI_CONFIG, OCI_MANIFEST, RunConfig
from moorage_api.types import Descriptor
from moorage_api.wire import diff_pb2
from moorage_api.wire.diff_pb2_grpc import DiffStub

if TYPE_CHECKING:
    from moorage.client import Client
    from moorage.container import ContainerHandle

_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_DEADLINE = 1800.0
_GC_REF = "containerd.io/gc.ref.content"


@contextlib.asynccontextmanager
async def layers(client: Client, container: ContainerHandle) -> AsyncIterator[tuple[list[Mount], list[Mount]]]:
    """The mounts of what a container began with, and of what it has now. `client` should be under a lease."""
    record = container.record
    if not record.snapshot_key:
        raise FailedPrecondition(f"container {container.name} has no snapshot: another client made it")
    snapshots = client.snapshots(record.snapshotter)
    key = f"moorage-view-{uuid.uuid4().hex}"
    parent = (await snapshots.stat(record.snapshot_key)).parent
    lower = await snapshots.view(key, parent)
    try:
        yield lower, await snapshots.mounts(record.snapshot_key)
    finally:
        with contextlib.suppress(NotFound):
            await snapshots.remove(key)


async def changes(client: Client, container: ContainerHandle, media_type: str = _LAYER) -> Descriptor:
    """What a container has changed, as a layer in the content store. Call it with a client under a lease."""
    async with layers(client, container) as (lower, upper):
        request = diff_pb2.DiffRequest(
            left=[to_mount(mount) for mount in lower],
            right=[to_mount(mount) for mount in upper],
            media_type=media_type,
            ref=f"moorage-diff-{uuid.uuid4().hex}",
        )
        response = await client.session.call(DiffStub(client.session.channel).Diff, request, timeout=_DEADLINE)
    return from_descriptor(response.diff)


async def commit(client: Client, container: ContainerHandle, name: str, change: build.Change = build.Change()) -> Image:
    """Make an image of a container as it is now; a running one should be paused meanwhile.

    `name` is normalised already; an image that has it gets the new content; an empty one makes an image that is called by its
    id. `NotFound` where the container's own image
    is gone, `FailedPrecondition` for a container that another client made.
    """
    async with client.leased() as leased:
        base = await leased.image(container.record.image)
        layer = await changes(leased, container)
        layer = replace(layer, annotations={**layer.annotations, build.UNCOMPRESSED: await _diff_id(leased, layer)})
        created = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        before = await leased.content.read_all(base.config_descriptor.digest)
        change = replace(change, created=created, config=_merged(base.config.config, change.config))
        config = build.add_layer(before, layer, change)
        return await put_image(leased, await write_image(leased, name, config, [*base.layers, layer]))


def _merged(before: RunConfig, change: Mapping[str, Any]) -> dict[str, Any]:
    """A change that adds variables and labels to those that are there."""
    merged = dict(change)
    if merged.get("Env"):
        variables = dict(entry.partition("=")[::2] for entry in (*before.env, *merged["Env"]))
        merged["Env"] = [f"{name}={value}" for name, value in variables.items()]
    if merged.get("Labels"):
        merged["Labels"] = {**before.labels, **merged["Labels"]}
    return merged


async def write_image(leased: Client, name: str, config: bytes, layers: Sequence[Descriptor]) -> Image:
    """Store the documents of an image whose layers are there; it gets its name (empty: none) by `put_image`."""
    config_descriptor = build.describe(config, OCI_CONFIG)
    children = build.without_annotations(layers)
    document = build.manifest(config_descriptor, children)
    target = build.describe(document, OCI_MANIFEST)
    await leased.content.write(config)
    refs = [config_descriptor, *children]
    await leased.content.write(document, {f"{_GC_REF}.{n}": child.digest for n, child in enumerate(refs)})
    return Image(name or dangling_name(target.digest), Descriptor(target.media_type, target.digest, target.size))


async def put_image(leased: Client, image: Image) -> Image:
    """Give an image its name; another one that has it loses it."""
    try:
        return await leased.images.create(image)
    except AlreadyExists:
        return await leased.images.update(image, ["target"])


async def _diff_id(client: Client, layer: Descriptor) -> str:
    """The digest of the layer without its compression, as the differ noted it."""
    noted = layer.annotations.get(build.UNCOMPRESSED) or (await client.content.info(layer.digest)).labels.get(
        build.UNCOMPRESSED
    )
    if not noted:
        raise FailedPrecondition(f"the daemon's differ does not tell the diff ID of the layer {layer.digest}")
    return noted
