"""Labels and ingest references as containerd's clients write them."""

from __future__ import annotations

from moorage_api.oci import image
from moorage_api.types import Descriptor
from mooraged.transfer.labels import children_labels, ingest_ref, remote_labels, source_label

DIGESTS = [f"sha256:{number:064x}" for number in range(5)]


def descriptor(media_type: str, number: int = 0) -> Descriptor:
    return Descriptor(media_type, DIGESTS[number], 1)


def test_a_manifest_keeps_its_configuration_and_layers() -> None:
    children = [
        descriptor(image.OCI_CONFIG, 0),
        descriptor(image.OCI_LAYER_GZIP, 1),
        descriptor(image.DOCKER_LAYER_GZIP, 2),
        descriptor("application/wasm", 3),
    ]
    assert children_labels(children) == {
        "containerd.io/gc.ref.content.config": DIGESTS[0],
        "containerd.io/gc.ref.content.l.0": DIGESTS[1],
        "containerd.io/gc.ref.content.l.1": DIGESTS[2],
        "containerd.io/gc.ref.content.0": DIGESTS[3],
    }


def test_an_index_keeps_its_manifests() -> None:
    children = [descriptor(image.OCI_MANIFEST, 0), descriptor(image.OCI_MANIFEST, 1), descriptor(image.OCI_INDEX, 2)]
    assert children_labels(children) == {
        "containerd.io/gc.ref.content.m.0": DIGESTS[0],
        "containerd.io/gc.ref.content.m.1": DIGESTS[1],
        "containerd.io/gc.ref.content.0": DIGESTS[2],
    }


def test_sources_of_a_blob_are_gathered() -> None:
    key = "containerd.io/distribution.source.host"
    assert source_label("host:5000", "b", {}) == {key: "b"}
    assert source_label("host", "a", {key: "b"}) == {key: "a,b"}
    assert source_label("host", "a", {key: "a,b"}) == {key: "a,b"}
    assert source_label("host", "a", {key: "x" * 4090}) == {}


def test_what_a_snapshotter_is_told_fits_into_labels() -> None:
    layers = [Descriptor(image.OCI_LAYER_GZIP, f"sha256:{number:064x}", 1) for number in range(100)]
    told = remote_labels("host/name:v1", DIGESTS[0], layers)
    named = [labels["containerd.io/snapshot/cri.image-layers"].split(",") for labels in told]
    assert [digests[0] for digests in named] == [layer.digest for layer in layers]
    assert named[99] == [layers[99].digest]
    assert named[0] == [layer.digest for layer in layers[:56]]
    assert max(len(key) + len(value) for labels in told for key, value in labels.items()) <= 4096


def test_ingest_references() -> None:
    refs = {
        image.OCI_INDEX: "index",
        image.DOCKER_LIST: "index",
        image.OCI_MANIFEST: "manifest",
        image.DOCKER_CONFIG: "config",
        image.OCI_LAYER_ZSTD: "layer",
        "text/plain": "unknown",
    }
    assert {kind: ingest_ref(descriptor(kind)) for kind in refs} == {
        kind: f"{name}-{DIGESTS[0]}" for kind, name in refs.items()
    }
    named = Descriptor(image.OCI_MANIFEST, DIGESTS[0], 1, {"org.opencontainers.image.ref.name": "v1"})
    assert ingest_ref(named) == f"manifest-v1@{DIGESTS[0]}"
