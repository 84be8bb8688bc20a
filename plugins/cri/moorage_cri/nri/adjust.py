"""Adjustments of plugins, put into the specification of a container."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from moorage_api.errors import InvalidArgument
from moorage_api.oci import spec as oci
from moorage_api.oci.spec import Spec
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.container import mounts, resources
from moorage_cri.container.host import Host
from moorage_cri.nri.owners import marked, name
from moorage_cri.nri.resources import device_rules, to_oci

HOOKS = {
    "prestart": "prestart",
    "create_runtime": "createRuntime",
    "create_container": "createContainer",
    "start_container": "startContainer",
    "poststart": "poststart",
    "poststop": "poststop",
}
"""Members of NRI's hooks, and what the OCI specification calls them."""

_PROPAGATIONS = frozenset({"rshared", "rslave"})
_NAMESPACES = frozenset({"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"})


def apply(spec: Spec, adjustment: pb.ContainerAdjustment, host: Host) -> None:
    """Change `spec` as plugins want it. It reads what the mounts name on the host, so it belongs in a thread.

    `InvalidArgument` and `FailedPrecondition` for what cannot be; `spec` is then to be dropped. What the OCI runtime
    does not know of is for the runtime to refuse or to pass over.
    """
    linux = adjustment.linux
    _mapping(spec, "annotations", adjustment.annotations)
    _environment(spec, adjustment.env)
    if adjustment.args:
        spec["process"]["args"] = list(adjustment.args)
    _hooks(spec, adjustment.hooks)
    for limit in adjustment.rlimits:
        oci.set_rlimit(spec, limit.type, limit.soft, limit.hard)
    _devices(spec, linux.devices)
    _namespaces(spec, linux.namespaces)
    _mapping(spec["linux"], "sysctl", linux.sysctl)
    _mapping(spec["linux"], "netDevices", {key: {"name": device.name} for key, device in linux.net_devices.items()})
    if linux.cgroups_path:
        spec["linux"]["cgroupsPath"] = linux.cgroups_path
    if linux.HasField("oom_score_adj"):
        spec["process"]["oomScoreAdj"] = resources.oom_score_adj(linux.oom_score_adj.value, host)
    _resources(spec, linux.resources, host)
    _rdt(spec, linux)
    _scheduling(spec, linux)
    if linux.HasField("seccomp_policy"):
        spec["linux"]["seccomp"] = _seccomp(linux.seccomp_policy)
    _mounts(spec, adjustment.mounts)


def _mapping(owner: dict[str, Any], member: str, wanted: Mapping[str, Any]) -> None:
    """Remove what is marked, then set the rest."""
    if not wanted:
        return
    values = dict(owner.get(member) or {})
    for key in filter(marked, wanted):
        values.pop(name(key), None)
    owner[member] = values | {key: value for key, value in wanted.items() if not marked(key)}


def _environment(spec: Spec, wanted: Iterable[pb.KeyValue]) -> None:
    for entry in wanted:
        if not entry.key or "=" in entry.key or "\0" in entry.key + entry.value:
            raise InvalidArgument(f"an NRI plugin sets the invalid environment variable {entry.key[:80]!r}")
    removed = [name(entry.key) for entry in wanted if marked(entry.key)]
    oci.set_env(spec, [*removed, *(f"{each.key}={each.value}" for each in wanted if not marked(each.key))])


def _hooks(spec: Spec, wanted: pb.Hooks) -> None:
    for field, member in HOOKS.items():
        for hook in getattr(wanted, field):
            entry: dict[str, Any] = {"path": hook.path, "args": list(hook.args), "env": list(hook.env)}
            if hook.HasField("timeout"):
                entry["timeout"] = hook.timeout.value
            spec.setdefault("hooks", {}).setdefault(member, []).append(entry)


def _devices(spec: Spec, wanted: Iterable[pb.LinuxDevice]) -> None:
    for device in wanted:
        path, linux = name(device.path), spec["linux"]
        linux["devices"] = [each for each in linux.get("devices") or () if each["path"] != path]
        if marked(device.path):
            continue
        node: dict[str, Any] = {"path": path, "type": device.type, "major": device.major, "minor": device.minor}
        for field, member in (("file_mode", "fileMode"), ("uid", "uid"), ("gid", "gid")):
            if device.HasField(field):  # type: ignore[arg-type]
                node[member] = getattr(device, field).value
        oci.add_device(spec, node, "rwm" if device.type == "b" else "rw")


def _namespaces(spec: Spec, wanted: Iterable[pb.LinuxNamespace]) -> None:
    for namespace in wanted:
        kind = name(namespace.type)
        if kind not in _NAMESPACES:
            raise InvalidArgument(f"an NRI plugin asks for the unknown namespace {kind[:80]!r}")
        if marked(namespace.type):
            oci.host_namespace(spec, kind)
        else:
            oci.set_namespace(spec, kind, namespace.path)


def _resources(spec: Spec, wanted: pb.LinuxResources, host: Host) -> None:
    into = spec["linux"].setdefault("resources", {})
    resources.merge_oci(into, to_oci(wanted, swap=host.swap))
    if wanted.HasField("blockio_class"):
        into.pop("blockIO", None)
    if wanted.devices:
        into["devices"] = [*(into.get("devices") or ()), *device_rules(wanted)]


def _rdt(spec: Spec, wanted: pb.LinuxContainerAdjustment) -> None:
    """A class names a group of the kernel's; `rdt` sets the same piece by piece."""
    linux, rdt = spec["linux"], wanted.rdt
    if wanted.resources.HasField("rdt_class"):
        linux.pop("intelRdt", None)
        if wanted.resources.rdt_class.value:
            linux["intelRdt"] = {"closID": wanted.resources.rdt_class.value}
    if rdt.remove:
        linux.pop("intelRdt", None)
    for field, member, value in (
        ("clos_id", "closID", rdt.clos_id.value),
        ("schemata", "schemata", list(rdt.schemata.value)),
        ("enable_monitoring", "enableMonitoring", rdt.enable_monitoring.value),
    ):
        if rdt.HasField(field):  # type: ignore[arg-type]
            linux.setdefault("intelRdt", {})[member] = value


def _scheduling(spec: Spec, wanted: pb.LinuxContainerAdjustment) -> None:
    """How the process is scheduled, and where its memory lies. A policy or class of none takes away what was set."""
    process, scheduler, priority, memory = spec["process"], wanted.scheduler, wanted.io_priority, wanted.memory_policy
    if wanted.HasField("scheduler"):
        process.pop("scheduler", None)
        if scheduler.policy != pb.SCHED_NONE:
            process["scheduler"] = {"policy": pb.LinuxSchedulerPolicy.Name(scheduler.policy)} | {
                field.name: value for field, value in scheduler.ListFields() if field.name not in ("policy", "flags")
            }
            if scheduler.flags:
                process["scheduler"]["flags"] = [pb.LinuxSchedulerFlag.Name(flag) for flag in scheduler.flags]
    if wanted.HasField("io_priority"):
        process.pop("ioPriority", None)
        kind = getattr(priority, "class")
        if kind != pb.IOPRIO_CLASS_NONE:
            process["ioPriority"] = {"class": pb.IOPrioClass.Name(kind), "priority": priority.priority}
    if wanted.HasField("memory_policy"):
        spec["linux"]["memoryPolicy"] = {
            "mode": pb.MpolMode.Name(memory.mode),
            "nodes": memory.nodes,
            "flags": [pb.MpolFlag.Name(flag) for flag in memory.flags],
        }


def _seccomp(policy: pb.LinuxSeccomp) -> dict[str, Any]:
    found: dict[str, Any] = {
        "defaultAction": policy.default_action,
        "architectures": list(policy.architectures),
        "flags": list(policy.flags),
        "syscalls": [_syscall(rule) for rule in policy.syscalls],
    }
    if policy.HasField("default_errno"):
        found["defaultErrnoRet"] = policy.default_errno.value
    if policy.listener_path:
        found |= {"listenerPath": policy.listener_path, "listenerMetadata": policy.listener_metadata}
    return found


def _syscall(rule: pb.LinuxSyscall) -> dict[str, Any]:
    found: dict[str, Any] = {
        "names": list(rule.names),
        "action": rule.action,
        "args": [
            {"index": each.index, "value": each.value, "valueTwo": each.value_two, "op": each.op} for each in rule.args
        ],
    }
    if rule.HasField("errno_ret"):
        found["errnoRet"] = rule.errno_ret.value
    return found


def _mounts(spec: Spec, wanted: Iterable[pb.Mount]) -> None:
    """A mount replaces the one at the same place; outer ones come first."""
    gone = {name(mount.destination) for mount in wanted}
    if not gone:
        return
    kept = [mount for mount in spec["mounts"] if mount["destination"] not in gone]
    added: list[dict[str, Any]] = [
        {
            "destination": mount.destination,
            "type": mount.type,
            "source": mount.source,
            "options": list(mount.options),
        }
        for mount in wanted
        if not marked(mount.destination)
    ]
    for mount in added:
        for mode in _PROPAGATIONS & set(mount["options"]):
            mounts.propagate(spec, mount["destination"], mount["source"], mode)
    spec["mounts"] = sorted(kept + added, key=lambda mount: os.path.normpath(mount["destination"]).count("/"))
