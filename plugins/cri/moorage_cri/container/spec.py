"""The OCI specification of a container."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.oci import devices
from moorage_api.oci import spec as oci
from moorage_api.oci.image import RunConfig
from moorage_api.oci.spec import Spec
from moorage_api.oci.user import User
from moorage_api.wire import cri_pb2
from moorage_cri import labels
from moorage_cri.cdi import names as cdi
from moorage_cri.cdi.registry import DeviceRegistry
from moorage_cri.config import Config, RuntimeHandler
from moorage_cri.container import hooks, mounts, resources, security, selinux
from moorage_cri.container.host import Host
from moorage_cri.container.mounts import Bind
from moorage_cri.model import Container, Sandbox
from moorage_cri.sandbox import userns
from moorage_cri.sandbox.spec import cgroups_path, require_pid_namespace


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that decides on a specification. `mounts` are the caller's, those of images by their place on the host; `binds`
    are the pod's files and the volumes; `target_pid` is the process whose PID namespace is to be joined, or zero."""

    sandbox: Sandbox
    container: Container
    image: RunConfig
    user: User
    config: Config
    handler: RuntimeHandler
    host: Host
    cdi: DeviceRegistry
    mounts: Sequence[cri_pb2.Mount]
    binds: Sequence[Bind]
    target_pid: int = 0


def build(inputs: Inputs) -> Spec:
    """The specification. Reads what the mounts, devices and profiles name on the host, so it belongs in a thread.

    `InvalidArgument` and `FailedPrecondition` for what cannot be.
    """
    container, config = inputs.container, inputs.container.config
    spec = oci.default_spec(
        args=oci.command_line(inputs.image, args=config.args, entrypoint=config.command or None),
        cgroups_path=cgroups_path(inputs.sandbox, inputs.config, container.id),
    )
    # CRI containers have no /run of their own, and the limits of the daemon.
    oci.remove_mounts(spec, "/run")
    spec["process"].pop("rlimits")
    _process(spec, inputs)
    _cgroups(spec, inputs)
    mounts.apply(spec, inputs.mounts, inputs.binds, inputs.sandbox.user_namespace)
    context = config.linux.security_context
    _check_privilege(context, inputs.sandbox)
    security.apply(spec, context, inputs.host, inputs.config.unset_seccomp_profile)
    _selinux(spec, inputs)
    _devices(spec, inputs)
    _namespaces(spec, inputs)
    oci.set_user(spec, inputs.user.uid, inputs.user.gid, inputs.user.groups)
    inputs.cdi.inject(spec, cdi.wanted(config.CDI_devices, config.annotations))
    hooks.add(spec, inputs.config.hooks_dirs, dict(config.annotations), bind_mounts=bool(config.mounts))
    spec["annotations"] = (
        labels.passed_on(inputs.sandbox.config.annotations, inputs.handler.pod_annotations)
        | labels.passed_on(config.annotations, inputs.handler.container_annotations)
        | labels.oci_annotations(
            inputs.sandbox.id,
            inputs.sandbox.config,
            container=config.metadata.name,
            image=config.image.user_specified_image or container.image_name,
        )
    )
    return spec


def _process(spec: Spec, inputs: Inputs) -> None:
    config = inputs.container.config
    cwd = config.working_dir or inputs.image.working_dir
    if cwd:
        if not cwd.startswith("/"):
            raise InvalidArgument(f"working_dir {cwd[:80]!r} is not an absolute path")
        spec["process"]["cwd"] = cwd
    hostname = inputs.sandbox.config.hostname or os.uname().nodename
    oci.set_env(spec, [f"HOSTNAME={hostname}", *inputs.image.env])
    oci.set_env(spec, [_variable(entry) for entry in config.envs])
    if config.tty:
        oci.set_terminal(spec)
    if config.linux.HasField("resources"):
        wanted = config.linux.resources.oom_score_adj
        spec["process"]["oomScoreAdj"] = resources.oom_score_adj(wanted, inputs.host)


def _variable(entry: cri_pb2.KeyValue) -> str:
    """JSON holds text alone, and the kernel no NUL."""
    try:
        text = f"{entry.key}={entry.value.decode()}"
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"environment variable {entry.key[:80]!r} is not UTF-8") from error
    if not entry.key or "=" in entry.key or "\0" in text:
        raise InvalidArgument(f"invalid environment variable {entry.key[:80]!r}")
    return text


def _cgroups(spec: Spec, inputs: Inputs) -> None:
    config = inputs.container.config
    oci.add_mount(
        spec,
        "/sys/fs/cgroup",
        "cgroup",
        type="cgroup",
        options=("nosuid", "noexec", "nodev", "relatime", "ro"),
    )
    if inputs.host.unified and not config.linux.security_context.privileged:
        oci.set_namespace(spec, "cgroup")
    spec["linux"]["resources"] |= resources.oci_resources(config.linux.resources, inputs.host)


def _selinux(spec: Spec, inputs: Inputs) -> None:
    """Labels where they are switched on and the kernel has them; a privileged container goes without."""
    context = inputs.container.config.linux.security_context
    if not inputs.config.enable_selinux or not inputs.host.selinux or context.privileged:
        return
    label = selinux.apply(spec, context.selinux_options)
    for mount in inputs.mounts:
        if mount.selinux_relabel:
            selinux.relabel(mount.host_path, label)


def _check_privilege(context: cri_pb2.LinuxContainerSecurityContext, sandbox: Sandbox) -> None:
    if context.privileged and not sandbox.config.linux.security_context.privileged:
        raise InvalidArgument("a privileged container needs a privileged pod")


def _devices(spec: Spec, inputs: Inputs) -> None:
    config = inputs.container.config
    if config.linux.security_context.privileged and not inputs.handler.privileged_without_host_devices:
        security.add_host_devices(spec)
    for wanted in config.devices:
        if set(wanted.permissions) - set("rwm"):
            raise InvalidArgument(f"device {wanted.host_path!r}: permissions {wanted.permissions!r} are not of r, w, m")
        for node in devices.devices(os.path.realpath(wanted.host_path), wanted.container_path):
            if inputs.config.device_ownership_from_security_context:
                node |= {"uid": inputs.user.uid or node["uid"], "gid": inputs.user.gid or node["gid"]}
            oci.add_device(spec, node, wanted.permissions or "rwm")


def _namespaces(spec: Spec, inputs: Inputs) -> None:
    """User, network, UTS and IPC are the pod's; the PID namespace is as the container says."""
    sandbox, options = inputs.sandbox, inputs.container.config.linux.security_context.namespace_options
    pinned = f"{sandbox.path}/ns"
    user = sandbox.user_namespace
    if user is not None:
        spec["linux"] |= {"uidMappings": userns.oci_mapping(user.uids), "gidMappings": userns.oci_mapping(user.gids)}
        if sandbox.host_network:
            # sysfs can only be mounted by who owns the network.
            oci.add_mount(spec, "/sys", "/sys", options=("rbind", "rslave", "nosuid", "noexec", "nodev", "rro"))
    for kind, path in (
        ("user", f"{pinned}/user" if user is not None else ""),
        ("network", sandbox.netns),
        ("uts", f"{pinned}/uts" if sandbox.netns else ""),
        ("ipc", f"{pinned}/ipc" if sandbox.namespace_options.ipc != cri_pb2.NODE else ""),
    ):
        if path:
            oci.set_namespace(spec, kind, path)
        else:
            oci.host_namespace(spec, kind)
    if options.pid == cri_pb2.CONTAINER:
        oci.set_namespace(spec, "pid")
    elif options.pid == cri_pb2.NODE:
        oci.host_namespace(spec, "pid")
    elif options.pid == cri_pb2.TARGET:
        if not inputs.target_pid:
            raise FailedPrecondition("the target container's PID namespace is gone")
        oci.set_namespace(spec, "pid", f"/proc/{inputs.target_pid}/ns/pid")
    else:
        require_pid_namespace(sandbox)
        oci.set_namespace(spec, "pid", f"{pinned}/pid")
