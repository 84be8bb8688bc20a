"""What a pod's configuration asks of CNI: its arguments and capability arguments, named as containerd names them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from moorage_api.cni.call import Attachment
from moorage_api.errors import InvalidArgument
from moorage_api.wire import cri_pb2

_INGRESS = "kubernetes.io/ingress-bandwidth"
_EGRESS = "kubernetes.io/egress-bandwidth"
_BURST = 2**32 - 1
_RATE_LEAST, _RATE_MOST = 1_000, 10**15
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?")
_SCALE = {
    unit: base**power
    for base, units in ((1000, ("", "k", "M", "G", "T", "P")), (1024, ("", "Ki", "Mi", "Gi", "Ti", "Pi")))
    for power, unit in enumerate(units)
}


def attachment(id: str, config: cri_pb2.PodSandboxConfig) -> Attachment:
    """The attachment of a pod, without its namespace as yet. `InvalidArgument` for a bandwidth that is none."""
    metadata = config.metadata
    args = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": metadata.namespace,
        "K8S_POD_NAME": metadata.name,
        "K8S_POD_INFRA_CONTAINER_ID": id,
        "K8S_POD_UID": metadata.uid,
    }
    return Attachment(id, "", args=args, capabilities=_capabilities(config))


def _capabilities(config: cri_pb2.PodSandboxConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"io.kubernetes.cri.pod-annotations": dict(config.annotations)}
    mappings = [_mapping(mapping) for mapping in config.port_mappings if mapping.host_port > 0]
    if mappings:
        found["portMappings"] = mappings
    bandwidth = _bandwidth(config)
    if bandwidth:
        found["bandwidth"] = bandwidth
    if config.HasField("dns_config"):
        dns = config.dns_config
        found["dns"] = {"servers": list(dns.servers), "searches": list(dns.searches), "options": list(dns.options)}
    if config.linux.cgroup_parent:
        found["cgroupPath"] = config.linux.cgroup_parent
    return found


def _mapping(mapping: cri_pb2.PortMapping) -> dict[str, Any]:
    return {
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": cri_pb2.Protocol.Name(mapping.protocol).lower(),
        "hostIP": mapping.host_ip,
    }


def _bandwidth(config: cri_pb2.PodSandboxConfig) -> dict[str, int]:
    found = {}
    for annotation, way in ((_INGRESS, "ingress"), (_EGRESS, "egress")):
        if annotation in config.annotations:
            found[f"{way}Rate"] = _rate(config.annotations[annotation], annotation)
            found[f"{way}Burst"] = _BURST
    return found


def _rate(text: str, annotation: str) -> int:
    """Bits per second from a Kubernetes quantity."""
    match = _QUANTITY.fullmatch(text)
    rate = int(Decimal(match[1]) * _SCALE[match[2] or ""]) if match and len(text) < 32 else 0
    if not _RATE_LEAST <= rate <= _RATE_MOST:
        raise InvalidArgument(f"annotation {annotation} is not a bandwidth from 1k to 1P: {text[:64]!r}")
    return rate
