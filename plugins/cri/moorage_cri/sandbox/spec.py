"""What a pod's configuration asks of its shim."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.sandboxes import SandboxSpec
from moorage_api.wire import cri_pb2
from moorage_cri import labels
from moorage_cri.config import Config, RuntimeHandler
from moorage_cri.model import Sandbox
from moorage_cri.sandbox import userns
from moorage_cri.sandbox.files import check_hostname, resolv_conf

_SYSCTL = re.compile(r"[a-zA-Z0-9_-]+(?:[./][a-zA-Z0-9_:-]+)+")
_IPC_SYSCTLS = frozenset(
    {
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    }
)
# How the name of a control group ends that systemd makes.
SLICE = ".slice"
_SYSTEMD_PREFIX = "cri-containerd"
_LABEL_BYTES_MAX = 256 << 10
_PATH_MAX = 4096


ALLOWED_SYSCTLS = (*sorted(_IPC_SYSCTLS), "fs.mqueue.*", "kernel.domainname", "net.*")
"""What a pod may set, as far as the namespace is its own."""


def check(config: cri_pb2.PodSandboxConfig) -> None:
    """`InvalidArgument` for a pod that cannot be made, whatever the state of the host."""
    metadata = config.metadata
    if not config.HasField("metadata") or not (metadata.name and metadata.namespace and metadata.uid):
        raise InvalidArgument("the pod's metadata must have a name, a namespace and a uid")
    for text in (metadata.name, metadata.namespace, metadata.uid):
        if len(text) > 253 or "\0" in text or "/" in text:
            raise InvalidArgument(f"{text[:80]!r} cannot be part of a pod's name")
    check_map(config.labels, "labels")
    check_map(config.annotations, "annotations")
    check_hostname(config.hostname)
    resolv_conf(config.dns_config)
    if config.log_directory and (not config.log_directory.startswith("/") or len(config.log_directory) > _PATH_MAX):
        raise InvalidArgument(f"log_directory {config.log_directory[:80]!r} is not an absolute path")
    _check_namespaces(config.linux.security_context.namespace_options)
    for name in config.linux.sysctls:
        _check_sysctl(name, config.linux.security_context.namespace_options)


def check_map(values: Mapping[str, str], what: str) -> None:
    """`InvalidArgument` for labels or annotations of more than 256 KiB, which is what Kubernetes allows."""
    size = sum(len(key) + len(value) for key, value in values.items())
    if size > _LABEL_BYTES_MAX:
        raise InvalidArgument(f"the {what} have {size} bytes: at most {_LABEL_BYTES_MAX}")


def sandbox_spec(sandbox: Sandbox, handler: RuntimeHandler, config: Config) -> SandboxSpec:
    """The specification of a checked pod, without its network namespace where the plugin makes that."""
    options, user = sandbox.namespace_options, sandbox.user_namespace
    pod = sandbox.config
    sysctls = {_dotted(name): value for name, value in pod.linux.sysctls.items() if not is_network_sysctl(name)}
    if user is not None and not sandbox.host_network:
        sysctls |= {_dotted(name): value for name, value in network_sysctls(sandbox, config).items()}
    return SandboxSpec(
        id=sandbox.id,
        runtime=sandbox.runtime,
        hostname="" if sandbox.host_network else pod.hostname,
        namespaces=namespaces(options),
        sysctls=sysctls,
        cgroups_path=cgroups_path(sandbox, config, sandbox.id),
        uids=user.uids if user is not None else None,
        gids=user.gids if user is not None else None,
        annotations=labels.oci_annotations(sandbox.id, pod)
        | labels.passed_on(pod.annotations, handler.pod_annotations)
        | _resources(pod.linux.resources),
    )


def network_sysctls(sandbox: Sandbox, config: Config) -> dict[str, str]:
    """What is set in the network namespace of a checked pod."""
    found: dict[str, str] = {}
    if config.enable_unprivileged_ports:
        found["net.ipv4.ip_unprivileged_port_start"] = "0"
    # The range is of the host's ids: a user namespace that lacks some of them cannot set it.
    if config.enable_unprivileged_icmp and sandbox.user_namespace is None:
        found["net.ipv4.ping_group_range"] = "0 2147483647"
    return found | {name: value for name, value in sandbox.config.linux.sysctls.items() if is_network_sysctl(name)}


def cgroups_path(sandbox: Sandbox, config: Config, id: str) -> str:
    """Below the pod's cgroup; in systemd's form (`slice:prefix:name`) where that is a slice."""
    parent = sandbox.config.linux.cgroup_parent or config.cgroup_parent
    if parent.endswith(SLICE):
        return f"{os.path.basename(parent)}:{_SYSTEMD_PREFIX}:{id}"
    return os.path.join("/", parent, id)


def is_network_sysctl(name: str) -> bool:
    """Whether a sysctl, written with dots or slashes, belongs to the network namespace."""
    return name.startswith(("net.", "net/"))


def namespaces(options: cri_pb2.NamespaceOption) -> tuple[str, ...]:
    """What the shim makes. The network is made by the plugin, unless a user namespace has to own it; a pod in the host's
    keeps the host's name, too."""
    found: list[str] = []
    if userns.of_pod(options) is not None:
        found += ["user", "network"] if options.network != cri_pb2.NODE else ["user"]
    if options.network != cri_pb2.NODE:
        found.append("uts")
    if options.ipc != cri_pb2.NODE:
        found.append("ipc")
    if options.pid == cri_pb2.POD:
        found.append("pid")
    return tuple(found)


def require_pid_namespace(sandbox: Sandbox) -> None:
    """`FailedPrecondition` for a pod whose containers do not share one."""
    if sandbox.namespace_options.pid != cri_pb2.POD:
        raise FailedPrecondition(f"pod {sandbox.id} was made without a PID namespace for its containers to share")


def _check_namespaces(options: cri_pb2.NamespaceOption) -> None:
    userns.of_pod(options)
    for name in ("network", "pid", "ipc"):
        if getattr(options, name) == cri_pb2.TARGET:
            raise InvalidArgument(f"namespace mode TARGET is for containers, not for a pod's {name}")


def _check_sysctl(name: str, options: cri_pb2.NamespaceOption) -> None:
    """Only what lies in a namespace of the pod's own may be set: anything else would be the host's."""
    if _SYSCTL.fullmatch(name) is None:
        raise InvalidArgument(f"invalid sysctl {name[:80]!r}")
    dotted = _dotted(name)
    if dotted.startswith("net."):
        if options.network == cri_pb2.NODE:
            raise InvalidArgument(f"sysctl {name!r} is not allowed in the host's network")
    elif dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        if options.ipc == cri_pb2.NODE:
            raise InvalidArgument(f"sysctl {name!r} is not allowed in the host's IPC namespace")
    elif dotted == "kernel.domainname" and options.network != cri_pb2.NODE:
        return
    else:
        raise InvalidArgument(f"sysctl {name!r} does not belong to a namespace: it would change the host")


def _dotted(name: str) -> str:
    """A sysctl may be written with slashes, and then have dots within its parts (`net/ipv4/conf/eth0.1/…`)."""
    return name.replace("/", ".") if "." not in name.partition("/")[0] else name


def _resources(resources: cri_pb2.LinuxContainerResources) -> dict[str, str]:
    """The pod's resources as a whole, for shims that size a virtual machine by them."""
    prefix = "io.kubernetes.cri.sandbox-"
    values = {
        "cpu-period": resources.cpu_period,
        "cpu-quota": resources.cpu_quota,
        "cpu-shares": resources.cpu_shares,
        "memory": resources.memory_limit_in_bytes,
    }
    return {f"{prefix}{name}": str(value) for name, value in values.items() if value}
