"""Snapshots of an image that is in the content store but not unpacked (or unpacked by another snapshotter)."""

from __future__ import annotations

import contextlib
import uuid

from moorage.convert import to_descriptor, to_mount
from moorage.image_config import ResolvedImage
from moorage.session import Session
from moorage.snapshots import Snapshots
from moorage_api.errors import AlreadyExists, DataLoss, NotFound
from moorage_api.types import Descriptor
from moorage_api.wire import content_pb2, diff_pb2
from moorage_api.wire.content_pb2_grpc import ContentStub
from moorage_api.wire.diff_pb2_grpc import DiffStub

_APPLY_DEADLINE = 1800.0


async def unpack(session: Session, image: ResolvedImage, snapshotter: str) -> str:
    """Make the snapshots of all layers that are not there; returns the chain ID of the top one.

    `session` must hold a lease: the lower snapshots have nothing else that keeps them meanwhile. The configuration is
    labelled with the top snapshot, so that the image keeps it from then on. `NotFound` for a layer that is not here.
    """
    snapshots = Snapshots(session, snapshotter)
    for number, chain_id in enumerate(image.chain):
        try:
            await snapshots.stat(chain_id)
        except NotFound:
            parent = image.chain[number - 1] if number else ""
            diff_id = image.config.rootfs.diff_ids[number]
            await _apply(session, snapshots, image.layers[number], diff_id, parent, chain_id)
    if image.chain:
        await _keep(session, image, snapshotter)
    return image.chain_id


async def _apply(
    session: Session, snapshots: Snapshots, layer: Descriptor, diff_id: str, parent: str, chain_id: str
) -> None:
    """One layer; someone else may be making the same one, then theirs is used."""
    key = f"extract-{uuid.uuid4().hex[:12]} {chain_id}"
    try:
        mounts = await snapshots.prepare(key, parent, {"containerd.io/snapshot.ref": chain_id})
    except AlreadyExists:
        await snapshots.stat(chain_id)
        return
    try:
        request = diff_pb2.ApplyRequest(diff=to_descriptor(layer), mounts=[to_mount(mount) for mount in mounts])
        stub = DiffStub(session.channel)
        applied = (await session.call(stub.Apply, request, timeout=_APPLY_DEADLINE)).applied
        if applied.digest != diff_id:
            raise DataLoss(f"layer {layer.digest} unpacks to {applied.digest}, its image says {diff_id}")
        await snapshots.commit(chain_id, key)
    except AlreadyExists:
        await snapshots.remove(key)
    except BaseException:
        with contextlib.suppress(NotFound):
            await snapshots.remove(key)
        raise


async def _keep(session: Session, image: ResolvedImage, snapshotter: str) -> None:
    label = f"containerd.io/gc.ref.snapshot.{snapshotter}"
    info = content_pb2.Info(digest=image.config_descriptor.digest, labels={label: image.chain_id})
    request = content_pb2.UpdateRequest(info=info)
    request.update_mask.paths.append(f"labels.{label}")
    await session.call(ContentStub(session.channel).Update, request)
