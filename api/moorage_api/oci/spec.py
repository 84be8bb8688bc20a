"""OCI runtime specifications (runtime-spec 1.0.2, `config.json`) as dictionaries ready for JSON.

`default_spec` is a container's usual specification; the other functions adjust one in place and return nothing. None
of them does I/O, so what comes out depends on the arguments alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moorage_api.errors import InvalidArgument
from moorage_api.oci import capabilities
from moorage_api.oci.image import RunConfig
from moorage_api.types import TypedValue

Spec = dict[str, Any]

VERSION = "1.0.2"
SPEC_URL = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS_URL = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES_URL = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = ("pid", "ipc", "uts", "mount", "network")
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_MOUNTS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/run", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
)
_NOFILE = 1024


def default_spec(*, args: Sequence[str] = (), cgroups_path: str = "", hostname: str = "") -> Spec:
    """The specification of an ordinary container: containerd's defaults for mounts, capabilities, paths and limits.

    No seccomp profile is set (`moorage_api.oci.seccomp` has the default one), and `root.path` is `rootfs`, relative to
    the bundle, where a shim mounts the snapshot.
    """
    caps = list(capabilities.DEFAULT)
    spec: Spec = {
        "ociVersion": VERSION,
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": [DEFAULT_PATH],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {"bounding": caps, "effective": list(caps), "permitted": list(caps)},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": _NOFILE, "soft": _NOFILE}],
        },
        "mounts": [
            {"destination": target, "type": kind, "source": source, "options": list(options)}
            for target, kind, source, options in _MOUNTS
        ],
        "linux": {
            "namespaces": [{"type": name} for name in NAMESPACES],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        },
    }
    if cgroups_path:
        spec["linux"]["cgroupsPath"] = cgroups_path
    if hostname:
        spec["hostname"] = hostname
    return spec


def image_defaults(
    spec: Spec,
    config: RunConfig,
    *,
    args: Sequence[str] = (),
    entrypoint: Sequence[str] | None = None,
) -> None:
    """Apply an image's run configuration (image-spec, `config`): environment, working folder, and the command to run.

    `args` replaces the image's Cmd; `entrypoint` (None: the image's own) replaces its Entrypoint and drops its Cmd.
    The user is not applied: that takes the root file system (`moorage_api.oci.user`). `InvalidArgument` where there is
    nothing to run.
    """
    set_env(spec, config.env)
    if config.working_dir:
        spec["process"]["cwd"] = config.working_dir
    spec["process"]["args"] = command_line(config, args=args, entrypoint=entrypoint)


def command_line(config: RunConfig, *, args: Sequence[str] = (), entrypoint: Sequence[str] | None = None) -> list[str]:
    """What a container of an image runs; the rules of `image_defaults`. An image's Entrypoint of one empty string
    is none."""
    own = list(config.entrypoint)
    if own == [""]:
        own = []
    head = own if entrypoint is None else list(entrypoint)
    tail = list(args)
    if not tail and not entrypoint:
        tail = list(config.cmd)
    if not head and not tail:
        raise InvalidArgument("no command specified: neither the request nor the image has one")
    return head + tail


def set_env(spec: Spec, entries: Iterable[str]) -> None:
    """Set `NAME=value` entries, each in place of an earlier one of that name; a bare `NAME` removes it."""
    env: dict[str, str] = {}
    for entry in (*spec["process"].get("env", ()), *entries):
        name, equals, _ = entry.partition("=")
        if equals:
            env[name] = entry
        else:
            env.pop(name, None)
    spec["process"]["env"] = list(env.values())


def add_mount(
    spec: Spec, destination: str, source: str, *, type: str = "bind", options: Sequence[str] = ("rbind", "rw")
) -> None:
    """Mount `source` at `destination`, in place of what was to be mounted there. Order is the order of mounting."""
    remove_mounts(spec, destination)
    spec["mounts"].append({"destination": destination, "type": type, "source": source, "options": list(options)})


def remove_mounts(spec: Spec, *destinations: str) -> None:
    """Forget the mounts at these places; those that are not there do not matter."""
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] not in destinations]


def set_user(spec: Spec, uid: int, gid: int, groups: Iterable[int] = ()) -> None:
    """Who the process runs as; `groups` are the supplementary ones, stored sorted and once each."""
    user: dict[str, Any] = {"uid": uid, "gid": gid}
    extra = sorted(set(groups))
    if extra:
        user["additionalGids"] = extra
    spec["process"]["user"] = user


def set_namespace(spec: Spec, type: str, path: str = "") -> None:
    """Give the container a namespace of this type: a new one, or the one pinned at `path`."""
    host_namespace(spec, type)
    spec["linux"]["namespaces"].append({"type": type, "path": path} if path else {"type": type})


def host_namespace(spec: Spec, type: str) -> None:
    """Leave the container in the host's namespace of this type."""
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != type]


def set_capabilities(spec: Spec, names: Iterable[str], *, ambient: Iterable[str] = ()) -> None:
    """Bounding, effective and permitted become `names`; ambient ones are inheritable too, as execve needs it."""
    caps = list(names)
    spec["process"]["capabilities"] = {"bounding": caps, "effective": list(caps), "permitted": list(caps)}
    kept = [name for name in ambient if name in caps]
    if kept:
        spec["process"]["capabilities"] |= {"ambient": kept, "inheritable": list(kept)}


def set_privileged(spec: Spec, held: Iterable[str]) -> None:
    """All that the host has: the capabilities `held`, no masked or read-only paths, writable /sys and cgroups,
    every device node allowed, no seccomp and no LSM profile."""
    set_capabilities(spec, held)
    linux = spec["linux"]
    linux["maskedPaths"], linux["readonlyPaths"] = [], []
    linux.pop("seccomp", None)
    linux["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    spec["process"].pop("apparmorProfile", None)
    spec["process"].pop("selinuxLabel", None)
    for mount in spec["mounts"]:
        if mount["type"] in ("sysfs", "cgroup"):
            mount["options"] = ["rw" if option == "ro" else option for option in mount["options"]]


def set_terminal(spec: Spec) -> None:
    """Give the process a terminal, and the variable TERM that programs ask for."""
    spec["process"]["terminal"] = True
    if not any(entry.startswith("TERM=") for entry in spec["process"]["env"]):
        set_env(spec, ["TERM=xterm"])


def set_rlimit(spec: Spec, type: str, soft: int, hard: int) -> None:
    """Set one limit (`RLIMIT_NOFILE`), in place of an earlier one of that type."""
    limits = [limit for limit in spec["process"].get("rlimits", ()) if limit["type"] != type]
    spec["process"]["rlimits"] = [*limits, {"type": type, "soft": soft, "hard": hard}]


def add_device(spec: Spec, device: Mapping[str, Any], access: str = "rwm") -> None:
    """Make a device node (as `moorage_api.oci.devices` reads them from the host) and allow `access` to it."""
    linux = spec["linux"]
    linux["devices"] = [node for node in linux.get("devices", ()) if node["path"] != device["path"]] + [dict(device)]
    if device["type"] in ("b", "c", "u"):
        kind = "b" if device["type"] == "b" else "c"
        linux["resources"]["devices"].append(
            {"allow": True, "type": kind, "major": device["major"], "minor": device["minor"], "access": access}
        )


def exec_process(
    spec: Spec,
    args: Sequence[str],
    *,
    env: Iterable[str] = (),
    cwd: str = "",
    terminal: bool = False,
) -> dict[str, Any]:
    """The `process` of a command that joins the container: its first process's user, capabilities and limits, with
    another command line. The specification itself stays as it is."""
    if not args:
        raise InvalidArgument("no command specified")
    process: dict[str, Any] = json.loads(json.dumps(spec["process"]))
    process["args"] = list(args)
    process["terminal"] = False
    process.pop("consoleSize", None)
    if cwd:
        process["cwd"] = cwd
    joined: Spec = {"process": process}
    set_env(joined, env)
    if terminal:
        set_terminal(joined)
    return process


def encode(spec: Mapping[str, Any], type_url: str = SPEC_URL) -> TypedValue:
    """As a container's record or an exec request carries it: JSON under containerd's type URL. `InvalidArgument` for text
    that is not Unicode: not every runtime would read the same of it."""
    try:
        return TypedValue(type_url, json.dumps(spec, separators=(",", ":"), ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{error.object[error.start : error.end]!r} is not UTF-8") from None


def decode(value: TypedValue | None) -> Spec:
    """The specification in a record. `InvalidArgument` where there is none, or it is not a JSON object."""
    if value is None:
        raise InvalidArgument("the container has no specification")
    try:
        spec = json.loads(value.value)
    except ValueError as error:
        raise InvalidArgument(f"the container's specification is not JSON: {error}") from error
    if not isinstance(spec, dict):
        raise InvalidArgument("the container's specification is not a JSON object")
    return spec
