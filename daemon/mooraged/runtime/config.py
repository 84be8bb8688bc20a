"""The configuration of the runtime, `[plugins."io.containerd.runtime.v2.task"]`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

DEFAULT_RUNTIME = "io.containerd.runc.v2"


class RuntimeEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one runtime name is served."""

    shim: Annotated[
        str,
        Meta(description="Id of a shim plugin (moorage), or name or path of a shim's binary; empty to find it by name"),
    ] = ""
    binary: Annotated[str, Meta(description="OCI runtime's name or path; empty for the default")] = ""
    root: Annotated[
        str, Meta(description="Folder for the OCI runtime's state; empty for one below the daemon's state")
    ] = ""
    systemd_cgroup: Annotated[bool, Meta(description="Let systemd make the cgroups")] = False
    options: Annotated[
        dict[str, str | bool | int], Meta(description="Further fields of containerd.runc.v1.Options, by name")
    ] = {}


class RuntimeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table of runtimes, and how long the daemon waits for shims."""

    runtimes: Annotated[
        dict[str, RuntimeEntry], Meta(description="Runtime names (io.containerd.X.vN) and how they are served")
    ] = {}
    oci_runtimes: Annotated[
        tuple[str, ...], Meta(description="OCI runtimes in order of preference; the first that works is the default")
    ] = ("crun", "runc")
    socket_dir: Annotated[
        str,
        Meta(description="Folder for the sockets of shims, 40 bytes at most; empty for one below the daemon's state"),
    ] = ""
    call_timeout: Annotated[
        float, Meta(gt=0, description="Seconds for a short call to a shim: state, kill, delete")
    ] = 10.0
    create_timeout: Annotated[
        float, Meta(gt=0, description="Seconds to start a shim, and to create or start a process")
    ] = 60.0
    checkpoint_timeout: Annotated[float, Meta(gt=0, description="Seconds to write a checkpoint or to restore one")] = (
        600.0
    )
    shutdown_timeout: Annotated[
        float, Meta(gt=0, description="Seconds that a shim may take to end before it is killed")
    ] = 3.0
    recovery_timeout: Annotated[
        float, Meta(gt=0, description="Seconds that the start of the daemon waits for shims")
    ] = 5.0
    shim_debug: Annotated[bool, Meta(description="Start shims with debug logs")] = False
