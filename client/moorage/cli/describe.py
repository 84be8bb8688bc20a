"""A container as `inspect` shows it: with docker's keys, and what else there is to know under keys of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from moorage.cli.references import brief
from moorage.cli.units import rfc3339
from moorage.client import Client
from moorage.container import ContainerHandle
from moorage.network.attach import attached, networks_of
from moorage.network.plan import Attached, Link
from moorage.network.ports import Port
from moorage.options import ContainerOptions, options_of
from moorage.signals import signal_name
from moorage.state import State
from moorage_api import health, native
from moorage_api.containers import Container
from moorage_api.errors import MoorageError
from moorage_api.native import RestartPolicy, restart_count
from moorage_api.oci import spec as oci
from moorage_api.oci.image import RunConfig

_SHM = 64 << 20


async def describe_container(client: Client, container: ContainerHandle) -> dict[str, Any]:
    """All that is known of a container."""
    record, state = container.record, await container.state()
    spec = oci.decode(record.spec)
    # Another client's container was made with none of our options: what they would be is taken from the specification.
    known = options_of(record)
    options = known or ContainerOptions(network="")
    args = [str(word) for word in spec.get("process", {}).get("args", ())]
    network = attached((await client.defaults()).networks, client.namespace, record.id)
    try:
        image = await client.image(record.image)
    except MoorageError:
        # Gone, or made by a client that names no image.
        image = None
    return {
        "Id": record.id,
        "Created": rfc3339(record.created_at),
        "Path": args[0] if args else "",
        "Args": args[1:],
        "State": _state(record, state),
        "Image": image.id if image is not None else record.image,
        "ResolvConfPath": _file(spec, "/etc/resolv.conf"),
        "HostsPath": _file(spec, "/etc/hosts"),
        "LogPath": container.log_path,
        "Name": f"/{container.name}",
        "RestartCount": restart_count(record.labels),
        "Driver": record.snapshotter,
        "Platform": "linux",
        "ExecIDs": None,
        "HostConfig": _host_config(spec, options, record.runtime.name),
        "Mounts": _mounts(spec, options),
        "Config": _config(record, spec, options, image.config.config if image is not None else RunConfig()),
        "NetworkSettings": _network_settings(record, network, options),
        "Runtime": record.runtime.name,
        "SnapshotKey": record.snapshot_key,
        "Options": msgspec.to_builtins(known),
        "Spec": spec,
    }


def _file(spec: dict[str, Any], path: str) -> str:
    return next((mount["source"] for mount in spec.get("mounts", ()) if mount.get("destination") == path), "")


def _state(record: Container, state: State) -> dict[str, Any]:
    return {
        "Status": state.status,
        "Running": state.running,
        "Paused": state.status == "paused",
        "Restarting": False,
        "OOMKilled": native.oom_killed(record.labels, record.id),
        "Dead": False,
        "Pid": state.pid,
        "ExitCode": state.exit_status or 0,
        "Error": "",
        "StartedAt": rfc3339(native.started_at(record.labels, record.id)),
        "FinishedAt": rfc3339(0 if state.running else state.exited_at),
        **_health(record, state),
    }


def _health(record: Container, state: State) -> dict[str, Any]:
    """What docker's `State.Health` has; nothing for a container without a check, or one that has never run."""
    if health.check_of(record) is None:
        return {}
    report = health.read_report(record)
    if report is None and not state.running:
        return {}
    report = report or health.Report(state.pid, 0)  # the daemon is about to begin
    log = [
        {"Start": rfc3339(run.start), "End": rfc3339(run.end), "ExitCode": run.exit_code, "Output": run.output}
        for run in report.log
    ]
    status = report.status if state.running else health.UNHEALTHY
    return {"Health": {"Status": status, "FailingStreak": report.failing, "Log": log}}


def _config(record: Container, spec: dict[str, Any], options: ContainerOptions, image: RunConfig) -> dict[str, Any]:
    process: dict[str, Any] = spec.get("process", {})
    signal = record.labels.get(native.STOP_SIGNAL, "")
    entrypoint = list(image.entrypoint) if options.entrypoint is None else list(options.entrypoint)
    command = list(options.args) or ([] if options.entrypoint is not None else list(image.cmd))
    own = native.NAME in record.labels
    check = health.check_of(record)
    return {
        "Hostname": spec.get("hostname", ""),
        "Domainname": spec.get("domainname", ""),
        "User": options.user or image.user,
        "AttachStdin": options.stdin_once,
        "AttachStdout": options.stdin_once,
        "AttachStderr": options.stdin_once,
        "ExposedPorts": image.exposed_ports or {f"{port.container}/{port.protocol}": {} for port in options.publish},
        "Tty": bool(process.get("terminal")),
        "OpenStdin": options.stdin,
        "StdinOnce": options.stdin_once,
        "Env": process.get("env", []),
        "Cmd": command if own else process.get("args", []),
        "Image": brief(record.image),
        "Volumes": image.volumes or None,
        "WorkingDir": process.get("cwd", ""),
        "Entrypoint": (entrypoint or None) if own else None,
        "Labels": dict(record.labels),
        **({"Healthcheck": msgspec.to_builtins(check)} if check is not None else {}),
        **({"StopSignal": signal_name(int(signal))} if signal.isdecimal() else {}),
        **({"StopTimeout": int(options.stop_timeout)} if options.stop_timeout is not None else {}),
    }


def _host_config(spec: dict[str, Any], options: ContainerOptions, runtime: str) -> dict[str, Any]:
    linux: dict[str, Any] = spec.get("linux", {})
    resources: dict[str, Any] = linux.get("resources", {})
    return {
        "Binds": [_bind(mount.source, mount.target, mount.read_only) for mount in options.binds]
        + [_bind(volume.name, volume.target, volume.read_only) for volume in options.volumes],
        "NetworkMode": options.network,
        "PortBindings": _bindings(options.publish),
        "RestartPolicy": _restart_policy(options.restart),
        "AutoRemove": options.auto_remove,
        "CapAdd": list(options.cap_add) or None,
        "CapDrop": list(options.cap_drop) or None,
        "Dns": list(options.dns),
        "DnsOptions": list(options.dns_options),
        "DnsSearch": list(options.dns_search),
        "ExtraHosts": list(options.extra_hosts) or None,
        "GroupAdd": list(options.group_add) or None,
        "IpcMode": options.ipc or "private",
        "PidMode": options.pid,
        "UTSMode": options.uts,
        "OomScoreAdj": options.oom_score_adj,
        "Privileged": options.privileged,
        "ReadonlyRootfs": bool(spec.get("root", {}).get("readonly")),
        "SecurityOpt": _security(options),
        "Tmpfs": {mount.target: ",".join(mount.options) for mount in options.tmpfs},
        "ShmSize": options.shm_size or _SHM,
        "Sysctls": dict(options.sysctls),
        "Runtime": runtime,
        "Init": options.init,
        "CgroupParent": linux.get("cgroupsPath", "").rpartition("/")[0],
        "Devices": [_device(device) for device in options.devices],
        "Ulimits": [_ulimit(limit) for limit in options.ulimits] or None,
        "LogConfig": {"Type": "cri", "Config": {}},
        **_resources(resources),
    }


def _resources(resources: dict[str, Any]) -> dict[str, Any]:
    cpu: dict[str, Any] = resources.get("cpu", {})
    memory: dict[str, Any] = resources.get("memory", {})
    period, quota = cpu.get("period", 0), cpu.get("quota", 0)
    return {
        "Memory": memory.get("limit", 0),
        "MemorySwap": memory.get("swap", 0),
        "MemoryReservation": memory.get("reservation", 0),
        "CpuPeriod": period,
        "CpuQuota": quota,
        "NanoCpus": quota * 10**9 // period if period else 0,
        "CpuShares": cpu.get("shares", 0),
        "CpusetCpus": cpu.get("cpus", ""),
        "CpusetMems": cpu.get("mems", ""),
        "PidsLimit": resources.get("pids", {}).get("limit", 0) or None,
    }


def _bind(source: str, target: str, read_only: bool) -> str:
    return f"{source}:{target}:ro" if read_only else f"{source}:{target}"


def _security(options: ContainerOptions) -> list[str] | None:
    seccomp = [] if options.seccomp else ["seccomp=unconfined"]
    own = [f"seccomp={options.seccomp_profile}"] if options.seccomp_profile else []
    privileges = ["no-new-privileges"] if options.no_new_privileges else []
    return [*seccomp, *own, *privileges, *([f"apparmor={options.apparmor}"] if options.apparmor else [])] or None


def _device(text: str) -> dict[str, str]:
    host, _, rest = text.partition(":")
    inside, _, access = rest.partition(":")
    return {"PathOnHost": host, "PathInContainer": inside or host, "CgroupPermissions": access or "rwm"}


def _ulimit(text: str) -> dict[str, Any]:
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}


def _restart_policy(text: str) -> dict[str, Any]:
    policy = RestartPolicy.parse(text)
    return {"Name": policy.name, "MaximumRetryCount": policy.retries}


def _bindings(ports: Sequence[Port]) -> dict[str, list[dict[str, str]]]:
    """By port of the container, as docker has them."""
    found: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        key = f"{port.container}/{port.protocol}"
        found.setdefault(key, []).append({"HostIp": port.host_ip or "0.0.0.0", "HostPort": str(port.host)})
    return found


def _network_settings(record: Container, network: Attached | None, options: ContainerOptions) -> dict[str, Any]:
    """What it has of its networks now; empty fields where it does not run."""
    links = network.links if network is not None else ()
    planned = networks_of(record) or [name for name in (options.network,) if name in ("none", "host")]
    found = {name: _endpoint(None) for name in planned} | {link.join.network: _endpoint(link) for link in links}
    first = _endpoint(links[0] if links else None)
    ports = _bindings(network.plan.ports) if network is not None else {}
    kept = ("IPAddress", "IPPrefixLen", "Gateway", "MacAddress")
    return {**{key: first[key] for key in kept}, "Ports": ports, "Networks": found}


def _endpoint(link: Link | None) -> dict[str, Any]:
    if link is None:
        return {"Aliases": None, "IPAddress": "", "IPPrefixLen": 0, "Gateway": "", "MacAddress": ""}
    prefix = next((str(entry["address"]).partition("/")[2] for entry in link.result.get("ips", ())), "0")
    return {
        "Aliases": list(link.join.aliases) or None,
        "IPAddress": link.address,
        "IPPrefixLen": int(prefix or 0),
        "Gateway": link.gateway,
        "MacAddress": link.mac,
    }


def _mounts(spec: dict[str, Any], options: ContainerOptions) -> list[dict[str, Any]]:
    """What the user had mounted, and the image: not what every container has."""
    volumes = [
        {
            **_mount("volume", volume.target, _file(spec, volume.target), volume.read_only),
            "Name": volume.name,
            "Driver": "local",
        }
        for volume in options.volumes
    ]
    binds = [
        {**_mount("bind", bind.target, bind.source, bind.read_only), "Propagation": bind.propagation}
        for bind in options.binds
    ]
    return [*volumes, *binds, *(_mount("tmpfs", tmpfs.target, "", False) for tmpfs in options.tmpfs)]


def _mount(kind: str, target: str, source: str, read_only: bool) -> dict[str, Any]:
    mode = "ro" if read_only else ""
    return {"Type": kind, "Source": source, "Destination": target, "Mode": mode, "RW": not read_only}
