"""What a container is asked to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from moorage.network.ports import Port
from moorage_api.containers import Container
from moorage_api.oci.image import Healthcheck
from moorage_api.types import TypedValue

EXTENSION = "moorage.io/options"
"""Where a container's record keeps the options it was made with."""
_OPTIONS_TYPE = "moorage.io/container-options"
RUNTIME = "io.containerd.runc.v2"
CGROUP_PARENT = "/moorage"


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
    """How to make a container from an image. What is empty or zero is as the image says, or the default; sizes are bytes.

    - `entrypoint`: None keeps the image's own, an empty sequence removes it.
    - `stdin` gives it an input, to which clients may attach; with `stdin_once` it ends with the first client's.
    - `network`: `none`, `host`, `bridge`, the name of a network, or `container:` and the name of a container whose network
      this one joins; in it, it has the further names `network_aliases` and, if free, the `address`.
    - `publish`: ports of the host that lead to it; `extra_hosts`: `NAME:ADDRESS`; `dns`: name servers in place of the host's.
    - `pid`, `ipc`, `uts`: `host` to share that namespace with the host.
    - `memory_swap`: memory and swap together, -1 without a limit; `cpus`: processors, or by hand the microseconds
      `cpu_quota` of each `cpu_period`; `cpu_shares`: its weight, 1024 that of others; `pids_limit`: processes and threads;
      `shm_size`: of /dev/shm (64 MiB); `ulimits`: `NAME=SOFT[:HARD]`.
    - `seccomp`: whether there is a profile; `seccomp_profile`: docker's JSON of one in place of the default.
    - `anonymous_volumes`: the names that volumes without one were given.
    - `restart`: `no`, `always`, `unless-stopped` or `on-failure[:TIMES]`; `stop_timeout`: seconds before it is killed.
    - `init` puts a small init process in front of the command.
    - `health`: the check in place of the image's, `NONE` as its test for none; what it leaves empty is the image's.
    - `cgroup_parent`: an absolute path below the cgroup root.
    """

    name: str = ""
    args: Sequence[str] = ()
    entrypoint: Sequence[str] | None = None
    env: Sequence[str] = ()
    user: str = ""
    group_add: Sequence[str] = ()
    workdir: str = ""
    hostname: str = ""
    domainname: str = ""
    network: str = "none"
    network_aliases: Sequence[str] = ()
    address: str = ""
    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False
    publish: Sequence[Port] = ()
    dns: Sequence[str] = ()
    dns_search: Sequence[str] = ()
    dns_options: Sequence[str] = ()
    extra_hosts: Sequence[str] = ()
    pid: str = ""
    ipc: str = ""
    uts: str = ""
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
    memory_swap: int = 0
    memory_reservation: int = 0
    cpus: float = 0.0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int = 0
    oom_score_adj: int = 0
    ulimits: Sequence[str] = ()
    shm_size: int = 0
    sysctls: Mapping[str, str] = field(default_factory=dict)
    no_new_privileges: bool = False
    seccomp: bool = True
    seccomp_profile: str = ""
    apparmor: str = ""
    stop_signal: str = ""
    stop_timeout: float | None = None
    restart: str = "no"
    init: bool = False
    auto_remove: bool = False
    health: Healthcheck | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
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
