"""`inspect`: all that is known of a container or an image, as JSON with docker's keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from moorage.cli.app import App, connected
from moorage.cli.errors import FAILURE
from moorage.cli.units import rfc3339
from moorage.container import ContainerHandle
from moorage.find import find
from moorage.image_config import ResolvedImage
from moorage.network.attach import attached, networks_of
from moorage.network.plan import Attached, Link
from moorage.network.ports import Port
from moorage.options import ContainerOptions, options_of
from moorage.state import State
from moorage_api import health
from moorage_api.containers import Container
from moorage_api.errors import InvalidArgument, MoorageError, NotFound
from moorage_api.native import RestartPolicy, restart_count
from moorage_api.oci import spec as oci


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--type", "kind", type=click.Choice(["container", "image"]), default=None, help="Only of this kind.")
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def inspect(app: App, names: tuple[str, ...], kind: str | None) -> int:
    """Show all that is known of containers or images."""
    return await _show(app, names, kind)


def _of_one_kind(kind: str) -> click.Command:
    @click.command("inspect", help=f"Show all that is known of {kind}s.")
    @click.argument("names", nargs=-1, required=True, metavar="NAME...")
    @click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
    @connected()
    async def command(app: App, names: tuple[str, ...]) -> int:
        return await _show(app, names, kind)

    return command


container_inspect = _of_one_kind("container")
image_inspect = _of_one_kind("image")


async def _show(app: App, names: tuple[str, ...], kind: str | None) -> int:
    found: list[dict[str, Any]] = []
    failed = 0
    for name in names:
        try:
            found.append(await _inspect(app, name, kind))
        except MoorageError as error:
            failed = FAILURE
            app.tell(error)
    app.describe(found)
    return failed


async def _inspect(app: App, name: str, kind: str | None) -> dict[str, Any]:
    if kind != "image":
        try:
            return await _container(app, await find(app.client, name))
        except NotFound:
            if kind == "container":
                raise
    try:
        return _image(await app.client.image(name))
    except (NotFound, InvalidArgument) as error:
        if kind == "image":
            raise
        raise NotFound(f"no such container or image: {name} (in the namespace {app.client.namespace!r})") from error


async def _container(app: App, container: ContainerHandle) -> dict[str, Any]:
    record, state = container.record, await container.state()
    spec = oci.decode(record.spec)
    process: dict[str, Any] = spec.get("process", {})
    args: list[str] = list(process.get("args", ()))
    options = options_of(record)
    place = (await app.client.defaults()).networks
    network = attached(place, app.client.namespace, record.id)
    return {
        "Id": record.id,
        "Created": rfc3339(record.created_at),
        "Path": args[0] if args else "",
        "Args": args[1:],
        "State": _state(state) | _health(record, state),
        "Image": record.image,
        "LogPath": container.log_path,
        "Name": container.name,
        "Driver": record.snapshotter,
        "HostConfig": _host_config(spec, options),
        "Mounts": _mounts(spec, options),
        "Config": {
            "Hostname": spec.get("hostname", ""),
            "User": options.user if options else "",
            "Tty": bool(process.get("terminal")),
            "Env": process.get("env", []),
            "Cmd": args,
            "Image": record.image,
            "WorkingDir": process.get("cwd", ""),
            "Labels": dict(record.labels),
            **({"StopTimeout": int(options.stop_timeout)} if options and options.stop_timeout is not None else {}),
            **({"Healthcheck": msgspec.to_builtins(check)} if (check := health.check_of(record)) else {}),
        },
        "NetworkSettings": _network_settings(record, network),
        "RestartCount": restart_count(record.labels),
        "Runtime": record.runtime.name,
        "SnapshotKey": record.snapshot_key,
        "Options": msgspec.to_builtins(options) if options else None,
        "Spec": spec,
    }


def _state(state: State) -> dict[str, Any]:
    return {
        "Status": state.status,
        "Running": state.running,
        "Paused": state.status == "paused",
        "Pid": state.pid,
        "ExitCode": state.exit_status or 0,
        "FinishedAt": rfc3339(state.exited_at),
    }


def _health(record: Container, state: State) -> dict[str, Any]:
    """What docker's `State.Health` has; nothing for a container without a check."""
    report = health.read_report(record) if health.check_of(record) is not None else None
    if report is None:
        return {}
    log = [
        {"Start": rfc3339(run.start), "End": rfc3339(run.end), "ExitCode": run.exit_code, "Output": run.output}
        for run in report.log
    ]
    status = report.status if state.running else health.UNHEALTHY
    return {"Health": {"Status": status, "FailingStreak": report.failing, "Log": log}}


def _host_config(spec: dict[str, Any], options: ContainerOptions | None) -> dict[str, Any]:
    linux: dict[str, Any] = spec.get("linux", {})
    resources: dict[str, Any] = linux.get("resources", {})
    cpu: dict[str, Any] = resources.get("cpu", {})
    memory: dict[str, Any] = resources.get("memory", {})
    period, quota = cpu.get("period", 0), cpu.get("quota", 0)
    return {
        "NetworkMode": options.network if options else "",
        "PortBindings": _bindings(options.publish if options else ()),
        "RestartPolicy": _restart_policy(options.restart if options else "no"),
        "AutoRemove": bool(options and options.auto_remove),
        "Privileged": bool(options and options.privileged),
        "Init": bool(options and options.init),
        "Memory": memory.get("limit", 0),
        "MemorySwap": memory.get("swap", 0),
        "MemoryReservation": memory.get("reservation", 0),
        "CpuShares": cpu.get("shares", 0),
        "CpusetCpus": cpu.get("cpus", ""),
        "CpusetMems": cpu.get("mems", ""),
        "NanoCpus": quota * 10**9 // period if period else 0,
        "PidsLimit": resources.get("pids", {}).get("limit", 0),
        "ReadonlyRootfs": bool(spec.get("root", {}).get("readonly")),
        "CgroupParent": linux.get("cgroupsPath", "").rpartition("/")[0],
    }


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


def _network_settings(record: Container, network: Attached | None) -> dict[str, Any]:
    """What it has of its networks now; empty fields where it does not run."""
    links = network.links if network is not None else ()
    found = {name: _endpoint(None) for name in networks_of(record)}
    found |= {link.join.network: _endpoint(link) for link in links}
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


def _mounts(spec: dict[str, Any], options: ContainerOptions | None) -> list[dict[str, Any]]:
    """What the user had mounted, and the image: not what every container has."""
    sources = {mount["destination"]: mount for mount in spec.get("mounts", ())}
    shown = []
    for volume in options.volumes if options else ():
        source = str(sources.get(volume.target, {}).get("source", ""))
        row = _mount("volume", volume.target, source, read_only=volume.read_only)
        shown.append({**row, "Name": volume.name, "Driver": "local"})
    for bind in options.binds if options else ():
        row = _mount("bind", bind.target, bind.source, read_only=bind.read_only)
        shown.append({**row, "Propagation": bind.propagation})
    shown += [_mount("tmpfs", tmpfs.target, "", read_only=False) for tmpfs in (options.tmpfs if options else ())]
    return shown


def _mount(kind: str, target: str, source: str, *, read_only: bool) -> dict[str, Any]:
    mode = "ro" if read_only else ""
    return {"Type": kind, "Source": source, "Destination": target, "Mode": mode, "RW": not read_only}


def _image(image: ResolvedImage) -> dict[str, Any]:
    config = image.config
    return {
        "Id": image.id,
        "RepoTags": [image.image.name],
        "RepoDigests": [f"{image.image.name.partition('@')[0].rpartition(':')[0]}@{image.image.target.digest}"],
        "Created": config.created,
        "Author": config.author,
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": sum(blob.size for blob in (image.manifest, image.config_descriptor, *image.layers)),
        "Config": msgspec.to_builtins(config.config),
        "RootFS": {"Type": "layers", "Layers": list(config.rootfs.diff_ids)},
        "Metadata": {"Labels": dict(image.image.labels)},
    }
