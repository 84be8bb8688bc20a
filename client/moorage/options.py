"""What a container is asked to be, and the OCI specification that this makes. No I/O but a look at the host's devices."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from moorage.network.ports import Port
from moorage_api.containers import Container
from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.native import CONTAINER
from moorage_api.oci import capabilities, devices, seccomp
from moorage_api.oci import spec as oci
from moorage_api.oci.image import Healthcheck, RunConfig
from moorage_api.types import TypedValue

EXTENSION = "moorage.io/options"
"""Where a container's record keeps the options it was made with."""
_OPTIONS_TYPE = "moorage.io/container-options"
RUNTIME = "io.containerd.runc.v2"
CGROUP_PARENT = "/moorage"
_HOST_FILES = ("/etc/hosts", "/etc/resolv.conf")
_CPU_PERIOD = 100_000
_INITS = ("docker-init", "tini-static")
_INIT_TARGET = "/sbin/docker-init"
_UNLIMITED = 1 << 64
_MEMORY_LEAST = 6 << 20


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of the host inside the container. `propagation` is of mounts that come later, as mount(8) has it."""

    source: str
    target: str
    read_only: bool = False
    propagation: str = "rprivate"


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A file system in memory inside the container; `options` as mount(8) takes them (`size=64m`)."""

    target: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume inside the container; it is made where there is none of that name. One without a name is the container's
    alone, and can be removed with it. A new one gets what the image has at `target`, unless `copy` is false."""

    name: str
    target: str
    read_only: bool = False
    copy: bool = True


@dataclass(frozen=True, kw_only=True)
class ContainerOptions:
    """How to make a container from an image. What is empty is as the image says, or the default.

    `network` is `none`, `host`, `bridge`, the name of a network, or `container:` and the name of a container whose
    network this one joins; in it, it has the further names `network_aliases` and, if free, the `address`. `publish` are
    ports of the host that lead to it; `extra_hosts` are `NAME:ADDRESS`; `dns` name servers in place of the host's.
    `restart` is `no`, `always`, `unless-stopped` or `on-failure[:TIMES]`; `init` puts a small init process in front of
    the command. `ulimits` are `NAME=SOFT[:HARD]`, `shm_size` the bytes of /dev/shm (0: 64 MiB). `memory` is bytes and
    `cpus` processors, zero for no limit; `pids_limit` zero for none. `entrypoint` None keeps the image's own, an empty
    sequence removes it. `stdin` gives it an input, to which clients may attach; with `stdin_once` it ends with the first
    client's. `health` is the check in place of the image's, `NONE` as its test for none; what it leaves empty is the
    image's. `anonymous_volumes` are the names that volumes without one were given. `cgroup_parent` is an absolute path
    below the cgroup root.
    """

    name: str = ""
    args: Sequence[str] = ()
    entrypoint: Sequence[str] | None = None
    env: Sequence[str] = ()
    user: str = ""
    workdir: str = ""
    hostname: str = ""
    network: str = "none"
    network_aliases: Sequence[str] = ()
    address: str = ""
    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False
    publish: Sequence[Port] = ()
    dns: Sequence[str] = ()
    extra_hosts: Sequence[str] = ()
    privileged: bool = False
    read_only: bool = False
    binds: Sequence[Bind] = ()
    volumes: Sequence[Volume] = ()
    anonymous_volumes: Sequence[str] = ()
    tmpfs: Sequence[Tmpfs] = ()
    devices: Sequence[str] = ()
    cap_add: Sequence[str] = ()
    cap_drop: Sequence[str] = ()
    memory: int = 0
    cpus: float = 0.0
    pids_limit: int = 0
    no_new_privileges: bool = False
    seccomp: bool = True
    stop_signal: str = ""
    restart: str = "no"
    init: bool = False
    ulimits: Sequence[str] = ()
    shm_size: int = 0
    auto_remove: bool = False
    health: Healthcheck | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    runtime: str = RUNTIME
    cgroup_parent: str = CGROUP_PARENT
    snapshotter: str = ""


def pack_options(options: ContainerOptions) -> TypedValue:
    """The options a container was made with, as its record keeps them for `inspect`."""
    return TypedValue(_OPTIONS_TYPE, msgspec.json.encode(options))


def options_of(container: Container) -> ContainerOptions | None:
    """The options in a record; None where another client made it, or they cannot be read."""
    value = container.extensions.get(EXTENSION)
    if value is None or value.type_url != _OPTIONS_TYPE:
        return None
    try:
        return msgspec.json.decode(value.value, type=ContainerOptions)
    except msgspec.DecodeError:
        return None


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
    hostname = options.hostname or (os.uname().nodename if options.network == "host" else id[:12])
    spec = oci.default_spec(cgroups_path=f"{options.cgroup_parent.rstrip('/')}/{id}", hostname=hostname)
    # An ordinary program of an image expects its own /run, and to find setuid programs working.
    oci.remove_mounts(spec, "/run")
    spec["process"]["noNewPrivileges"] = options.no_new_privileges
    spec["process"].pop("rlimits", None)
    oci.image_defaults(spec, config, args=options.args, entrypoint=options.entrypoint)
    oci.set_env(spec, [f"HOSTNAME={hostname}"])
    if options.terminal:
        oci.set_terminal(spec)
    oci.set_env(spec, _with_own_values(options.env))
    if options.workdir:
        spec["process"]["cwd"] = _absolute(options.workdir, "the working directory")
    spec["root"]["readonly"] = options.read_only
    _set_privileges(spec, options)
    _set_network(spec, options)
    _set_mounts(spec, options)
    set_limits(spec, options)
    if options.init:
        _set_init(spec)
    return spec


def _with_own_values(env: Sequence[str]) -> list[str]:
    """A bare `NAME` takes the caller's own value, and is left out where there is none (as docker does)."""
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
            spec["linux"]["seccomp"] = seccomp.default_profile(names)
        nodes = []
    for node in nodes:
        oci.add_device(spec, node)
    for wanted in options.devices:
        host, _, rest = wanted.partition(":")
        inside, _, access = rest.partition(":")
        for node in devices.devices(host, inside or host):
            oci.add_device(spec, node, access or "rwm")


def _set_network(spec: oci.Spec, options: ContainerOptions) -> None:
    own = options.network not in ("none", "host") and not options.network.startswith(CONTAINER)
    if not own and (options.publish or options.network_aliases or options.address):
        raise InvalidArgument(
            f"the network {options.network} has no ports, names or addresses to give: use bridge, or one of your own"
        )
    for entry in options.extra_hosts:
        if not all(entry.partition(":")):
            raise InvalidArgument(f"invalid entry for the hosts file {entry!r}: expected NAME:ADDRESS")
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


def set_limits(spec: oci.Spec, options: ContainerOptions) -> None:
    """Set the limits that the options name, in place of earlier ones. `InvalidArgument`."""
    resources = spec["linux"]["resources"]
    if options.memory:
        if options.memory < _MEMORY_LEAST:
            raise InvalidArgument(f"a memory limit of {options.memory} bytes is too small: at least 6 MiB")
        resources["memory"] = {"limit": options.memory}
    if options.cpus:
        if not 0.01 <= options.cpus <= (os.cpu_count() or 1):
            raise InvalidArgument(f"cpus is {options.cpus:g}: expected 0.01 to {os.cpu_count()}")
        resources["cpu"] = {"quota": round(options.cpus * _CPU_PERIOD), "period": _CPU_PERIOD}
    if options.pids_limit > 0:
        resources["pids"] = {"limit": options.pids_limit}
    for ulimit in options.ulimits:
        oci.set_rlimit(spec, *_ulimit(ulimit))


def _ulimit(text: str) -> tuple[str, int, int]:
    """`nofile=1024:2048` as the type, the soft and the hard limit; -1 is none."""
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    kind = f"RLIMIT_{name.upper()}"
    try:
        low, high = int(soft), int(hard or soft)
    except ValueError:
        raise InvalidArgument(f"invalid ulimit {text!r}: expected NAME=SOFT[:HARD], as nofile=1024:2048") from None
    if not hasattr(resource, kind):
        raise InvalidArgument(f"invalid ulimit {text!r}: the kernel has no limit {name!r}")
    if high != -1 and (low > high or low == -1):
        raise InvalidArgument(f"invalid ulimit {text!r}: the soft limit is above the hard one")
    return kind, low % _UNLIMITED, high % _UNLIMITED


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
