"""What a container has changed in its root file system, as a file, and back. All of it does I/O."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from moorage_api.content import ContentStore
from moorage_api.core import Namespaced
from moorage_api.errors import AlreadyExists
from moorage_api.types import Descriptor
from moorage_cri.context import Cri
from moorage_cri.image.cache import CachedImage
from moorage_cri.model import Container

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CHUNK = 1 << 20


def save(cri: Cri, container: Container, image: CachedImage, path: Path) -> Descriptor:
    """Write the difference to the image into a new file. The container should not run meanwhile."""
    with _leased(cri) as space:
        snapshotter = space.snapshotter(container.snapshotter)
        key = f"{container.id}-checkpoint-{secrets.token_hex(4)}"
        below = snapshotter.view(key, image.chain_id)
        try:
            layer = cri.core.differ.compare(space.content, below, snapshotter.mounts(container.id), media_type=_LAYER)
        finally:
            snapshotter.remove(key)
        _read(space.content, layer, path)
        return layer


def load(cri: Cri, container: Container, digest: str, path: Path) -> None:
    """Bring the file's changes into a container's new snapshot. `InvalidArgument`, `DataLoss` for a file that is not what
    was written."""
    with _leased(cri) as space:
        layer = Descriptor(_LAYER, digest, path.stat().st_size)
        _write(space.content, layer, path)
        cri.core.differ.apply(space.content, layer, space.snapshotter(container.snapshotter).mounts(container.id))


@contextmanager
def _leased(cri: Cri) -> Iterator[Namespaced]:
    """The namespace with a lease of its own: what is written under it is collected after the block, and after a day where
    the daemon dies in it."""
    until = datetime.now(UTC) + timedelta(days=1)
    lease = cri.k8s.leases.create(labels={"containerd.io/gc.expire": until.strftime("%Y-%m-%dT%H:%M:%SZ")})
    try:
        yield cri.core.namespaced(cri.k8s.namespace, lease.id)
    finally:
        cri.k8s.leases.delete(lease.id)


def _read(content: ContentStore, layer: Descriptor, path: Path) -> None:
    with content.open(layer.digest) as blob, path.open("xb") as file:
        for offset in range(0, blob.size, _CHUNK):
            file.write(blob.pread(min(_CHUNK, blob.size - offset), offset))


def _write(content: ContentStore, layer: Descriptor, path: Path) -> None:
    ref = f"restore-{secrets.token_hex(8)}"
    with suppress(AlreadyExists), path.open("rb") as file, content.writer(ref, layer.size, layer.digest) as writer:
        while chunk := file.read(_CHUNK):
            writer.write(chunk)
        writer.commit(layer.size, layer.digest)
