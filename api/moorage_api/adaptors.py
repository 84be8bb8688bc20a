"""Adaptors: how the filter grammar sees each noun. Field names are those of containerd's adaptors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moorage_api import content, snapshots
from moorage_api.containers import Container
from moorage_api.filters import Adaptor
from moorage_api.images import Image
from moorage_api.leases import Lease
from moorage_api.sandboxes import Sandbox
from moorage_api.types import Labels


def _adaptor(fields: Mapping[str, str], maps: Mapping[str, Labels]) -> Adaptor:
    """An adaptor over plain fields (by dotted path) and maps (`labels.KEY`); an empty field is absent."""

    def value(path: Sequence[str]) -> str | None:
        if path and path[0] in maps:
            return maps[path[0]].get(".".join(path[1:]))
        return fields.get(".".join(path)) or None

    return value


def content_info(info: content.Info) -> Adaptor:
    """Fields: digest, labels."""
    return _adaptor({"digest": info.digest}, {"labels": info.labels})


def ingest_status(status: content.IngestStatus) -> Adaptor:
    """Fields: ref."""
    return _adaptor({"ref": status.ref}, {})


def snapshot_info(info: snapshots.Info) -> Adaptor:
    """Fields: name, parent, kind (`active`, `view`, `committed`), labels."""
    fields = {"name": info.name, "kind": info.kind.value.lower()}

    def value(path: Sequence[str]) -> str | None:
        # A snapshot at the bottom has an empty parent, which is a value: `parent==""` finds it.
        return info.parent if list(path) == ["parent"] else plain(path)

    plain = _adaptor(fields, {"labels": info.labels})
    return value


def image(image: Image) -> Adaptor:
    """Fields: name, target.digest, target.mediatype, labels, annotations."""
    fields = {"name": image.name, "target.digest": image.target.digest, "target.mediatype": image.target.media_type}
    return _adaptor(fields, {"labels": image.labels, "annotations": image.target.annotations})


def container(container: Container) -> Adaptor:
    """Fields: id, image, runtime.name, sandbox_id, labels."""
    fields = {
        "id": container.id,
        "image": container.image,
        "runtime.name": container.runtime.name,
        "sandbox_id": container.sandbox_id,
    }
    return _adaptor(fields, {"labels": container.labels})


def lease(lease: Lease) -> Adaptor:
    """Fields: id, labels."""
    return _adaptor({"id": lease.id}, {"labels": lease.labels})


def sandbox(sandbox: Sandbox) -> Adaptor:
    """Fields: id, runtime.name, sandboxer, labels."""
    fields = {"id": sandbox.id, "runtime.name": sandbox.runtime.name, "sandboxer": sandbox.sandboxer}
    return _adaptor(fields, {"labels": sandbox.labels})
