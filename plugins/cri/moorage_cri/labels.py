"""Labels, annotations and extensions on records: containerd's names, so that `ctr -n k8s.io` shows familiar things."""

from __future__ import annotations

from collections.abc import Mapping

from moorage_api.errors import InvalidArgument
from moorage_api.types import check_labels
from moorage_api.wire import cri_pb2

KIND = "io.cri-containerd.kind"
KIND_SANDBOX = "sandbox"
KIND_CONTAINER = "container"
SANDBOX_METADATA = "io.cri-containerd.sandbox.metadata"
CONTAINER_METADATA = "io.cri-containerd.container.metadata"
IMAGE = "io.cri-containerd.image"
IMAGE_MANAGED = "managed"
PINNED = "io.cri-containerd.pinned"

# What these begin with tells the daemon or its clients what to do: never taken over from an image or a pod.
_CONTROL = ("containerd.io/", "moorage.io/", "io.containerd", "io.cri-containerd")


def record_labels(kind: str, *sources: Mapping[str, str]) -> dict[str, str]:
    """The labels of a record: those of `sources`, later ones first, and what it is.

    Labels that would control the daemon are left out, and so are those longer than a record may have; the whole of
    them is in the record's metadata.
    """
    labels: dict[str, str] = {}
    for source in sources:
        for key, value in source.items():
            if key.startswith(_CONTROL):
                continue
            try:
                check_labels({key: value})
            except InvalidArgument:
                continue
            labels[key] = value
    labels[KIND] = kind
    return labels


def oci_annotations(
    id: str, config: cri_pb2.PodSandboxConfig, *, container: str = "", image: str = ""
) -> dict[str, str]:
    """The OCI annotations of a pod or, with `container`, of one of its containers."""
    found = {
        "io.kubernetes.cri.sandbox-id": id,
        "io.kubernetes.cri.sandbox-namespace": config.metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": config.metadata.uid,
        "io.kubernetes.cri.sandbox-name": config.metadata.name,
    }
    if container:
        return found | {
            "io.kubernetes.cri.container-type": KIND_CONTAINER,
            "io.kubernetes.cri.container-name": container,
            "io.kubernetes.cri.image-name": image,
        }
    return found | {
        "io.kubernetes.cri.container-type": KIND_SANDBOX,
        "io.kubernetes.cri.sandbox-log-directory": config.log_directory,
    }


def passed_on(annotations: Mapping[str, str], patterns: tuple[str, ...]) -> dict[str, str]:
    """Those annotations that a pattern names: a key, or the beginning of keys followed by `*`."""
    exact = {pattern for pattern in patterns if not pattern.endswith("*")}
    starts = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    return {key: value for key, value in annotations.items() if key in exact or (starts and key.startswith(starts))}
