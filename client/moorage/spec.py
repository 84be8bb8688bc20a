"""The OCI specification of a container, from what it is asked to be and from its image. No I/O but a look at the host."""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Sequence

import msgspec

from moorage.limits import set_limits
from moorage.options import ContainerOptions
from moorage.seccomp_profile import translate
from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.native import CONTAINER
from moorage_api.oci import capabilities, devices, seccomp
from moorage_api.oci import spec as oci
from moorage_api.oci.image import Healthcheck, RunConfig

_HOST_FILES = ("/etc/hosts", "/etc/resolv.conf")
_INITS = ("docker-init", "tini-static")
_INIT_TARGET = "/sbin/docker-init"


def health_of(options: ContainerOptions, config: RunConfig) -> Healthcheck | None:
    """The health check of a container: the image's, with what the options say in its place; None for none."""
    wanted, image = options.health, config.healthcheck
    if wanted is None or image is None:
        check = wanted or image
    else:
        said = {name: value for name in wanted.__struct_fields__ if (value := getattr(wanted, name))}
        check = msgspec.structs.replace(image, **said)
    return check if check is not None and check.test else None


def build_spec(options: ContainerOptions, config: RunConfig, id: str) -> oci.Spec:
    """The specification of a container, all but its user. `InvalidArgument` for what does not make sense."""
    of_host = options.network == "host" or options.uts == "host"
    hostname = options.hostname or (os.uname().nodename if of_host else id[:12])
    cgroup_parent = _absolute(options.cgroup_parent, "the parent of the cgroup").rstrip("/")
    spec = oci.default_spec(cgroups_path=f"{cgroup_parent}/{id}", hostname=hostname)
    # An ordinary program of an image expects its own /run, and to find setuid programs working.
    oci.remove_mounts(spec, "/run")
    spec["process"]["noNewPrivileges"] = options.no_new_privileges
    spec["process"].pop("rlimits", None)
    oci.image_defaults(spec, config, args=options.args, entrypoint=options.entrypoint)
    oci.set_env(spec, [f"HOSTNAME={hostname}"])
    if options.terminal:
        oci.set_terminal(spec)
    oci.set_env(spec, with_own_values(options.env))
    if options.workdir:
        spec["process"]["cwd"] = _absolute(options.workdir, "the working directory")
    spec["root"]["readonly"] = options.read_only
    if options.domainname:
        spec["domainname"] = options.domainname
    if options.annotations:
        spec["annotations"] = dict(options.annotations)
    if options.oom_score_adj:
        spec["process"]["oomScoreAdj"] = options.oom_score_adj
    _set_privileges(spec, options)
    _set_namespaces(spec, options)
    _set_network(spec, options)
    _set_mounts(spec, options)
    set_limits(spec, options)
    if options.init:
        _set_init(spec)
    return spec


def with_own_values(env: Sequence[str]) -> list[str]:
    """A bare `NAME` takes the caller's own value, and is left out where there is none (as docker does). `InvalidArgument`."""
    for entry in env:
        if not entry.partition("=")[0]:
            raise InvalidArgument(f"invalid variable {entry!r}: expected NAME=VALUE, or NAME")
    own = [f"{entry}={os.environ[entry]}" for entry in env if "=" not in entry and entry in os.environ]
    return [entry for entry in env if "=" in entry] + own


def _set_privileges(spec: oci.Spec, options: ContainerOptions) -> None:
    held = capabilities.held()
    base = held if options.privileged else capabilities.DEFAULT
    names = capabilities.adjust(base, options.cap_add, options.cap_drop, everything=held)
    if options.privileged:
        oci.set_privileged(spec, names)
        nodes = devices.host_devices()
    else:
        oci.set_capabilities(spec, names)
        if options.seccomp:
            own = translate(options.seccomp_profile, names) if options.seccomp_profile else None
            spec["linux"]["seccomp"] = own or seccomp.default_profile(names)
        nodes = []
    if options.apparmor:
        spec["process"]["apparmorProfile"] = options.apparmor
    for node in nodes:
        oci.add_device(spec, node)
    for wanted in options.devices:
        host, _, rest = wanted.partition(":")
        inside, _, access = rest.partition(":")
        for node in devices.devices(host, inside or host):
            oci.add_device(spec, node, access or "rwm")


def _set_namespaces(spec: oci.Spec, options: ContainerOptions) -> None:
    """Namespaces shared with the host, and what only a namespace of its own can have."""
    for name in ("pid", "ipc", "uts"):
        wanted = getattr(options, name)
        if wanted not in ("", "host", "private"):
            raise InvalidArgument(f"invalid {name} namespace {wanted!r}: expected host or private")
        if wanted == "host":
            oci.host_namespace(spec, name)
    if options.uts == "host":
        if options.hostname:
            raise InvalidArgument("a container with the host's UTS namespace has the host's name")
        spec.pop("hostname", None)
    if options.ipc == "host":
        oci.remove_mounts(spec, "/dev/mqueue")
        for path in filter(os.path.isdir, ("/dev/shm", "/dev/mqueue")):
            oci.add_mount(spec, path, path, options=("rbind", "rprivate"))
    if options.sysctls:
        spec["linux"]["sysctl"] = dict(options.sysctls)


def _set_network(spec: oci.Spec, options: ContainerOptions) -> None:
    own = options.network not in ("none", "host") and not options.network.startswith(CONTAINER)
    if not own and (options.publish or options.network_aliases or options.address):
        raise InvalidArgument(
            f"the network {options.network} has no ports, names or addresses to give: use bridge, or one of your own"
        )
    for entry in options.extra_hosts:
        if not all(entry.partition(":")):
            raise InvalidArgument(f"invalid entry for the hosts file {entry!r}: expected NAME:ADDRESS")
    for server in options.dns:
        try:
            ipaddress.ip_address(server)
        except ValueError:
            raise InvalidArgument(f"invalid name server {server!r}: expected an address") from None
    if options.network == "host":
        oci.host_namespace(spec, "network")
        for path in _HOST_FILES:
            if os.path.exists(path):
                oci.add_mount(spec, path, os.path.realpath(path), options=("bind", "ro"))


def _set_mounts(spec: oci.Spec, options: ContainerOptions) -> None:
    if options.shm_size:
        shm = ("nosuid", "noexec", "nodev", "mode=1777", f"size={options.shm_size}")
        oci.add_mount(spec, "/dev/shm", "shm", type="tmpfs", options=shm)
    for tmpfs in options.tmpfs:
        target = _absolute(tmpfs.target, "the target of a tmpfs")
        base = ("noexec", "nosuid", "nodev")
        oci.add_mount(spec, target, "tmpfs", type="tmpfs", options=tmpfs.options or base)
    for bind in options.binds:
        target = _absolute(bind.target, "the target of a volume")
        mode = "ro" if bind.read_only else "rw"
        source = _absolute(bind.source, "the source of a volume")
        oci.add_mount(spec, target, source, options=("rbind", bind.propagation, mode))


def _set_init(spec: oci.Spec) -> None:
    """Run the command under a small init that reaps what it leaves and passes signals on. `FailedPrecondition`."""
    program = next((path for path in map(shutil.which, _INITS) if path), None)
    if program is None:
        raise FailedPrecondition(f"--init needs one of {', '.join(_INITS)} on this machine")
    oci.add_mount(spec, _INIT_TARGET, os.path.realpath(program), options=("bind", "ro"))
    spec["process"]["args"] = [_INIT_TARGET, "--", *spec["process"]["args"]]


def _absolute(path: str, what: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(f"{what} is {path!r}: expected an absolute path")
    return path
