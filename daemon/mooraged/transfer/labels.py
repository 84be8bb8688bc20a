"""The labels and ingest references that containerd's clients and garbage collection know, as pure functions.

Source: containerd's garbage collection (https://github.com/containerd/containerd/blob/main/docs/garbage-collection.md)
and the behaviour of its clients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from moorage_api.oci import image
from moorage_api.types import Descriptor, Labels

UNCOMPRESSED = "containerd.io/uncompressed"
SNAPSHOT_REF = "containerd.io/snapshot.ref"
GC_EXPIRE = "containerd.io/gc.expire"
GC_SNAPSHOT = "containerd.io/gc.ref.snapshot."
_GC_CONTENT = "containerd.io/gc.ref.content."
_SOURCE = "containerd.io/distribution.source."
_REF_NAME = "org.opencontainers.image.ref.name"
_LABEL_MAX = 4096
_FOR_REMOTE = "containerd.io/snapshot/cri."


def children_labels(children: Iterable[Descriptor]) -> dict[str, str]:
    """What an index or a manifest keeps alive: `m.0`, `m.1` … for manifests, `config`, `l.0` … for layers."""
    counts: Counter[str] = Counter()
    labels = {}
    for child in children:
        kind = _child_kind(child.media_type)
        number = counts[kind]
        counts[kind] += 1
        numbered = kind.endswith(".") or number > 0 or not kind
        labels[f"{_GC_CONTENT}{kind}{number if numbered else ''}"] = child.digest
    return labels


def source_label(domain: str, path: str, known: Labels) -> dict[str, str]:
    """The repositories of `domain` (its port left out) that a blob came from: those in `known`, and `path`. Nothing
    where the label would become too long."""
    key = _source_key(domain)
    value = ",".join(sorted({*source_repositories(domain, known), path}))
    return {key: value} if len(key) + len(value) <= _LABEL_MAX else {}


def source_repositories(domain: str, known: Labels) -> list[str]:
    """The repositories of `domain` that a blob with these labels came from, or went to."""
    return [path for path in known.get(_source_key(domain), "").split(",") if path]


def _source_key(domain: str) -> str:
    return _SOURCE + (urlsplit(f"//{domain}").hostname or domain)


def remote_labels(reference: str, manifest: str, layers: Sequence[Descriptor]) -> list[dict[str, str]]:
    """For each layer of an image, the lowest first, what a snapshotter is told that may get its files from the registry
    by itself: the image, the digest of its manifest, of the layer, and of it and those above, as many as a label holds."""
    return [
        {
            f"{_FOR_REMOTE}image-ref": reference,
            f"{_FOR_REMOTE}manifest-digest": manifest,
            f"{_FOR_REMOTE}layer-digest": layer.digest,
            f"{_FOR_REMOTE}image-layers": _joined(f"{_FOR_REMOTE}image-layers", layers[number:]),
        }
        for number, layer in enumerate(layers)
    ]


def _joined(key: str, layers: Sequence[Descriptor]) -> str:
    digests = ",".join(layer.digest for layer in layers)
    room = _LABEL_MAX - len(key)
    return digests if len(digests) <= room else digests[: digests.rindex(",", 0, room + 1)]


def ingest_ref(descriptor: Descriptor) -> str:
    """The name of the ingest that becomes this blob: the same for all clients, so that each resumes what another left."""
    name = descriptor.annotations.get(_REF_NAME, "")
    key = f"{name}@{descriptor.digest}" if name else descriptor.digest
    return f"{_ref_kind(descriptor.media_type)}-{key}"


def _child_kind(media_type: str) -> str:
    if image.is_config(media_type):
        return "config"
    if image.is_manifest(media_type):
        return "m."
    return "l." if image.is_layer(media_type) else ""


def _ref_kind(media_type: str) -> str:
    kinds = (
        (image.is_manifest, "manifest"),
        (image.is_index, "index"),
        (image.is_layer, "layer"),
        (image.is_config, "config"),
    )
    return next((kind for matches, kind in kinds if matches(media_type)), "unknown")
