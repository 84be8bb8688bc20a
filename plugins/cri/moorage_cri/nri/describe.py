"""Pods and containers as NRI's messages."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from moorage_api.errors import MoorageError, NotFound
from moorage_api.oci.spec import Spec, decode
from moorage_api.wire import cri_pb2
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.context import Cri
from moorage_cri.model import Container, Sandbox
from moorage_cri.nri.adjust import HOOKS
from moorage_cri.nri.resources import from_cri, from_oci
from moorage_cri.sandbox.spec import namespaces

logger = logging.getLogger(__name__)

_STATES = {
    cri_pb2.CONTAINER_CREATED: pb.CONTAINER_CREATED,
    cri_pb2.CONTAINER_RUNNING: pb.CONTAINER_RUNNING,
    cri_pb2.CONTAINER_EXITED: pb.CONTAINER_STOPPED,
}


def pod(cri: Cri, sandbox: Sandbox) -> pb.PodSandbox:
    """A pod as it is now. It has no control group and no process of its own."""
    config = sandbox.config
    parent = config.linux.cgroup_parent or cri.config.cgroup_parent
    message = pb.PodSandbox(
        id=sandbox.id,
        name=config.metadata.name,
        uid=config.metadata.uid,
        namespace=config.metadata.namespace,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=sandbox.handler,
        linux=pb.LinuxPodSandbox(cgroup_parent=parent, namespaces=_pinned(sandbox)),
        ips=sandbox.network.addresses if sandbox.network is not None else (),
    )
    if config.linux.HasField("overhead"):
        message.linux.pod_overhead.CopyFrom(from_cri(config.linux.overhead))
    if config.linux.HasField("resources"):
        message.linux.pod_resources.CopyFrom(from_cri(config.linux.resources))
    return message


def _pinned(sandbox: Sandbox) -> list[pb.LinuxNamespace]:
    """The pod's namespaces; the network's is gone once the pod has been stopped."""
    kinds = namespaces(sandbox.namespace_options) if sandbox.path else ()
    paths = [("network", sandbox.netns), *((kind, f"{sandbox.path}/ns/{kind}") for kind in kinds)]
    return [pb.LinuxNamespace(type=kind, path=path) for kind, path in paths if path and os.path.exists(path)]


def container(found: Container, spec: Spec | None, pid: int = 0) -> pb.Container:
    """A container as it is now; without its specification, what is known of it in memory. `pid` is that of one that
    is about to start."""
    run, config = found.run, found.config
    message = pb.Container(
        id=found.id,
        pod_sandbox_id=found.sandbox_id,
        name=config.metadata.name,
        state=_STATES[found.state],
        labels=config.labels,
        pid=run.pid or pid,
        created_at=found.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        exit_code=run.exit_code,
        status_reason=run.reason,
        status_message=run.message,
        CDI_devices=[pb.CDIDevice(name=device.name) for device in config.CDI_devices],
        user=pb.User(uid=found.user.uid, gid=found.user.gid, additional_gids=found.user.supplemental_groups),
    )
    if config.linux.security_context.HasField("seccomp"):
        profile = config.linux.security_context.seccomp
        # The kinds of profiles have the same numbers in both protocols.
        kind: Any = profile.profile_type
        message.linux.seccomp_profile.CopyFrom(
            pb.SecurityProfile(profile_type=kind, localhost_ref=profile.localhost_ref)
        )
    if spec is not None:
        _process(message, spec)
        _linux(message.linux, spec)
    message.annotations.update(config.annotations)
    return message


def spec_of(cri: Cri, id: str) -> Spec | None:
    """A container's specification; None for one whose record is gone or broken. This does I/O."""
    try:
        return decode(cri.k8s.containers.get(id).spec)
    except NotFound:
        return None
    except MoorageError as error:
        logger.warning("container %s is shown to NRI plugins without its specification: %s", id, error)
        return None


def _process(message: pb.Container, spec: Spec) -> None:
    process = spec["process"]
    message.annotations.update(spec.get("annotations") or {})
    message.args.extend(_texts(process.get("args") or ()))
    message.env.extend(_texts(process.get("env") or ()))
    for mount in spec.get("mounts") or ():
        message.mounts.add(
            destination=mount["destination"],
            type=mount.get("type", ""),
            source=mount.get("source", ""),
            options=mount.get("options") or (),
        )
    for limit in process.get("rlimits") or ():
        message.rlimits.add(type=limit["type"], hard=limit["hard"], soft=limit["soft"])
    for field, name in HOOKS.items():
        for hook in (spec.get("hooks") or {}).get(name) or ():
            getattr(message.hooks, field).append(_hook(hook))
    if process.get("oomScoreAdj") is not None:
        message.linux.oom_score_adj.value = process["oomScoreAdj"]
    if process.get("ioPriority"):
        priority = process["ioPriority"]
        setattr(message.linux.io_priority, "class", pb.IOPrioClass.Value(priority["class"]))
        message.linux.io_priority.priority = priority.get("priority", 0)
    if process.get("scheduler"):
        scheduler = dict(process["scheduler"])
        policy = pb.LinuxSchedulerPolicy.Value(scheduler.pop("policy"))
        flags = [pb.LinuxSchedulerFlag.Value(flag) for flag in scheduler.pop("flags", ())]
        message.linux.scheduler.CopyFrom(pb.LinuxScheduler(policy=policy, flags=flags, **scheduler))


def _linux(message: pb.LinuxContainer, spec: Spec) -> None:
    linux = spec["linux"]
    for namespace in linux.get("namespaces") or ():
        message.namespaces.add(type=namespace["type"], path=namespace.get("path", ""))
    for device in linux.get("devices") or ():
        message.devices.append(_device(device))
    message.resources.CopyFrom(from_oci(linux.get("resources") or {}))
    message.cgroups_path = linux.get("cgroupsPath", "")
    message.sysctl.update(linux.get("sysctl") or {})
    for key, device in (linux.get("netDevices") or {}).items():
        message.net_devices[key].name = device.get("name", "")
    if linux.get("seccomp"):
        policy = _seccomp(linux["seccomp"])
        if policy is not None:
            message.seccomp_policy.CopyFrom(policy)
    if linux.get("intelRdt"):
        rdt = linux["intelRdt"]
        message.rdt.clos_id.value = rdt.get("closID", "")
        message.rdt.schemata.value.extend(rdt.get("schemata") or ())
        message.rdt.enable_monitoring.value = rdt.get("enableMonitoring", False)


def _hook(hook: Mapping[str, Any]) -> pb.Hook:
    message = pb.Hook(path=hook["path"], args=hook.get("args") or (), env=hook.get("env") or ())
    if hook.get("timeout") is not None:
        message.timeout.value = hook["timeout"]
    return message


def _device(device: Mapping[str, Any]) -> pb.LinuxDevice:
    message = pb.LinuxDevice(
        path=device["path"], type=device["type"], major=device.get("major", 0), minor=device.get("minor", 0)
    )
    for name, field in (("fileMode", "file_mode"), ("uid", "uid"), ("gid", "gid")):
        if device.get(name) is not None:
            getattr(message, field).value = device[name]
    return message


def _texts(texts: Iterable[str]) -> Iterator[str]:
    """JSON of an image may hold halves of characters, which protobuf refuses."""
    return (text.encode(errors="replace").decode() for text in texts)


def _seccomp(policy: Mapping[str, Any]) -> pb.LinuxSeccomp | None:
    """None for a profile of the node's that has not the form of the specification: that is for the OCI runtime to say."""
    try:
        return _policy(policy)
    except (KeyError, TypeError, ValueError) as error:
        logger.debug("a seccomp profile is not shown to NRI plugins: %r", error)
        return None


def _policy(policy: Mapping[str, Any]) -> pb.LinuxSeccomp:
    message = pb.LinuxSeccomp(
        default_action=policy["defaultAction"],
        architectures=policy.get("architectures") or (),
        flags=policy.get("flags") or (),
        listener_path=policy.get("listenerPath", ""),
        listener_metadata=policy.get("listenerMetadata", ""),
    )
    if policy.get("defaultErrnoRet") is not None:
        message.default_errno.value = policy["defaultErrnoRet"]
    for rule in policy.get("syscalls") or ():
        entry = message.syscalls.add(names=rule.get("names") or (), action=rule["action"])
        if rule.get("errnoRet") is not None:
            entry.errno_ret.value = rule["errnoRet"]
        for each in rule.get("args") or ():
            entry.args.add(
                index=each["index"], value=each["value"], value_two=each.get("valueTwo", 0), op=each.get("op", "")
            )
    return message
