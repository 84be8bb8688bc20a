"""What `run` and `create` can be asked for, and the library's options that it comes to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from moorage.cli.mounts import parse_mount, parse_tmpfs, parse_volume
from moorage.cli.pairs import pairs
from moorage.cli.units import check_seconds, parse_size
from moorage.image_config import ResolvedImage
from moorage.network.ports import Port
from moorage.network.ports import parse as parse_ports
from moorage.options import CGROUP_PARENT, RUNTIME, Bind, ContainerOptions, Tmpfs, Volume
from moorage.times import parse_duration
from moorage_api.errors import InvalidArgument
from moorage_api.oci.image import Healthcheck

_LIMITS: tuple[Callable[[Any], Any], ...] = (
    click.option("-m", "--memory", default="", help="Limit of memory, as 512m."),
    click.option("--memory-swap", default="", help="Limit of memory and swap together; -1 for no limit."),
    click.option("--memory-reservation", default="", help="What it should get by with when memory is short."),
    click.option(
        "-c", "--cpu-shares", type=int, default=0, help="Its weight where processors are short; 1024 is usual."
    ),
    click.option("--cpuset-cpus", default="", metavar="LIST", help="The processors that it may use, as 0-2,4."),
    click.option("--cpuset-mems", default="", metavar="LIST", help="The memory nodes that it may use."),
    click.option("--cpus", type=float, default=0.0, help="Limit of processors, as 1.5."),
    click.option("--cpu-period", type=int, default=0, help="Microseconds that --cpu-quota is of."),
    click.option("--cpu-quota", type=int, default=0, help="Microseconds of each --cpu-period that it may run."),
    click.option("--pids-limit", type=int, default=0, help="Limit of processes and threads."),
)

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("image"),
    click.argument("args", nargs=-1, metavar="[COMMAND [ARG...]]", type=click.UNPROCESSED),
    click.option("-i", "--interactive", is_flag=True, help="Give it the input."),
    click.option("-t", "--tty", is_flag=True, help="Give it a terminal."),
    click.option(
        "-a",
        "--attach",
        multiple=True,
        type=click.Choice(["stdin", "stdout", "stderr"], case_sensitive=False),
        help="Only this of its streams.",
    ),
    click.option("--rm", is_flag=True, help="Remove it when it ends."),
    click.option("--name", default="", help="Its name; random unless given."),
    click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable."),
    click.option("--env-file", multiple=True, metavar="FILE", help="Set the variables of a file."),
    click.option(
        "-v", "--volume", multiple=True, metavar="SOURCE:CONTAINER[:ro]", help="Mount a folder, file or volume."
    ),
    click.option(
        "--mount", multiple=True, metavar="type=…,source=…,target=…", help="Mount a bind, a volume or a tmpfs."
    ),
    click.option("--tmpfs", multiple=True, metavar="PATH[:OPTIONS]", help="A file system in memory."),
    click.option(
        "--volumes-from", multiple=True, metavar="CONTAINER[:ro]", help="Mount what another container has mounted, too."
    ),
    click.option("--volume-driver", type=click.Choice(["local"]), default="local", hidden=True),
    click.option("-w", "--workdir", default="", help="Its working directory."),
    click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Who it runs as."),
    click.option("--group-add", multiple=True, metavar="GROUP", help="One more group that it is in."),
    click.option("--entrypoint", default=None, help="In place of the image's; empty for none."),
    click.option(
        "--network", "--net", default="bridge", envvar="MOORAGE_NETWORK", show_default=True, metavar="NETWORK"
    ),
    click.option("--network-alias", multiple=True, metavar="NAME", help="One more name for it in its network."),
    click.option("--ip", default="", metavar="ADDRESS", help="Its address in its network; a free one unless given."),
    click.option(
        "-p", "--publish", multiple=True, metavar="[[IP:]HOST:]CONTAINER", help="Let a port of the host lead in."
    ),
    click.option("--dns", multiple=True, metavar="ADDRESS", help="A name server in place of the host's."),
    click.option("--dns-search", multiple=True, metavar="DOMAIN", help="Where to look names up; . for nowhere."),
    click.option("--dns-option", "--dns-opt", multiple=True, metavar="OPTION", help="An option of resolv.conf."),
    click.option("-P", "--publish-all", is_flag=True, help="Publish all ports that the image exposes."),
    click.option("--expose", multiple=True, metavar="PORT", help="One more port for --publish-all."),
    click.option("--add-host", multiple=True, metavar="NAME:ADDRESS", help="A line of /etc/hosts."),
    click.option("--restart", default="no", show_default=True, help="no, always, unless-stopped, on-failure[:TIMES]."),
    click.option("--init", is_flag=True, help="Run it under a small init that reaps processes."),
    click.option("-h", "--hostname", default="", help="Its host name; the short id unless given."),
    click.option("--domainname", default="", help="Its domain's name (NIS)."),
    click.option("--pid", default="", metavar="host", help="Share the host's processes."),
    click.option("--ipc", default="", metavar="host", help="Share the host's shared memory."),
    click.option("--uts", default="", metavar="host", help="Share the host's name."),
    click.option("--privileged", is_flag=True, help="All that the host has."),
    click.option("--read-only", is_flag=True, help="Its root file system cannot be written."),
    click.option("--oom-score-adj", type=click.IntRange(-1000, 1000), default=0, help="More is killed sooner."),
    click.option("--sysctl", multiple=True, metavar="NAME=VALUE", help="A setting of its own kernel namespaces."),
    *_LIMITS,
    click.option("--shm-size", default="", help="Size of /dev/shm, as 128m."),
    click.option("--ulimit", multiple=True, metavar="NAME=SOFT[:HARD]", help="A limit, as nofile=1024:2048."),
    click.option("--cap-add", multiple=True, help="Add a capability, or ALL."),
    click.option("--cap-drop", multiple=True, help="Drop a capability, or ALL."),
    click.option("--security-opt", multiple=True, help="no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE."),
    click.option("--device", multiple=True, metavar="HOST[:CONTAINER[:rwm]]", help="Add a device."),
    click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Add a label."),
    click.option("--label-file", multiple=True, metavar="FILE", help="Add the labels of a file."),
    click.option("--annotation", multiple=True, metavar="KEY=VALUE", help="Add an annotation to its specification."),
    click.option("--cidfile", default="", metavar="FILE", help="Write its id to this file."),
    click.option("--stop-timeout", type=float, callback=check_seconds, default=None, help="Seconds that stop waits."),
    click.option("--stop-signal", default="", help="What stop sends."),
    click.option("--health-cmd", default="", metavar="COMMAND", help="A shell command; it exits 0 while all is well."),
    click.option("--health-interval", default="", metavar="DURATION", help="Time between two checks [30s]."),
    click.option("--health-timeout", default="", metavar="DURATION", help="Time that a check may take [30s]."),
    click.option("--health-start-period", default="", metavar="DURATION", help="Time in which failures do not count."),
    click.option("--health-start-interval", default="", metavar="DURATION", help="Time between two checks in it [5s]."),
    click.option("--health-retries", type=int, default=0, help="Failures in a row that make it unhealthy [3]."),
    click.option("--no-healthcheck", is_flag=True, help="No check, not even the image's."),
    click.option("--pull", type=click.Choice(["missing", "always", "never"]), default="missing", show_default=True),
    click.option("--platform", default="", help="os/architecture[/variant] of the image."),
    click.option("--runtime", default=RUNTIME, show_default=True, help="The shim's name."),
    click.option("--snapshotter", default="", help="Use this snapshotter."),
    click.option("--cgroup-parent", default=CGROUP_PARENT, envvar="MOORAGE_CGROUP_PARENT", show_default=True),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress of a pull."),
)


def limits(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of limits that a running container can be given, too; `limits_of` reads them."""
    for option in reversed(_LIMITS):
        command = option(command)
    return command


def container_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that make a container."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_SAME = {
    "add_host": "extra_hosts",
    "cgroup_parent": "cgroup_parent",
    "cap_add": "cap_add",
    "cap_drop": "cap_drop",
    "device": "devices",
    "dns": "dns",
    "dns_option": "dns_options",
    "dns_search": "dns_search",
    "domainname": "domainname",
    "group_add": "group_add",
    "hostname": "hostname",
    "init": "init",
    "interactive": "stdin",
    "ip": "address",
    "ipc": "ipc",
    "name": "name",
    "network": "network",
    "network_alias": "network_aliases",
    "oom_score_adj": "oom_score_adj",
    "pid": "pid",
    "privileged": "privileged",
    "read_only": "read_only",
    "restart": "restart",
    "rm": "auto_remove",
    "runtime": "runtime",
    "snapshotter": "snapshotter",
    "stop_signal": "stop_signal",
    "stop_timeout": "stop_timeout",
    "tty": "terminal",
    "ulimit": "ulimits",
    "user": "user",
    "uts": "uts",
    "workdir": "workdir",
}
"""Flags whose values are those of the library's options, under other names here and there."""


def read_options(flags: Mapping[str, Any], image: ResolvedImage) -> ContainerOptions:
    """The options of the command line as the library has them. `InvalidArgument`."""
    same = {field: flags[flag] for flag, field in _SAME.items()}
    mounts = _mounts(flags)
    entrypoint = flags["entrypoint"]
    return ContainerOptions(
        **same,
        **limits_of(flags),
        **_security(flags["security_opt"]),
        args=flags["args"],
        entrypoint=None if entrypoint is None else [entrypoint] if entrypoint else [],
        env=[*lines_of(flags["env_file"]), *flags["env"]],
        publish=_ports(flags, image),
        shm_size=parse_size(flags["shm_size"]) if flags["shm_size"] else 0,
        binds=[mount for mount in mounts if isinstance(mount, Bind)],
        volumes=[mount for mount in mounts if isinstance(mount, Volume)],
        tmpfs=[mount for mount in mounts if isinstance(mount, Tmpfs)],
        sysctls=pairs(flags["sysctl"]),
        annotations=pairs(flags["annotation"]),
        labels=pairs([*lines_of(flags["label_file"]), *flags["label"]]),
        health=_health(flags),
    )


def _ports(flags: Mapping[str, Any], image: ResolvedImage) -> list[Port]:
    """The ports that are named, and with --publish-all those that are exposed, each at a free port of the host."""
    ports = [port for text in flags["publish"] for port in parse_ports(text)]
    if flags["publish_all"]:
        named = {(port.container, port.protocol) for port in ports}
        exposed = [
            port for text in (*image.config.config.exposed_ports, *flags["expose"]) for port in parse_ports(text)
        ]
        ports += [port for port in exposed if (port.container, port.protocol) not in named]
    return ports


def _mounts(flags: Mapping[str, Any]) -> list[Bind | Volume | Tmpfs]:
    return [
        *map(parse_volume, flags["volume"]),
        *map(parse_mount, flags["mount"]),
        *map(parse_tmpfs, flags["tmpfs"]),
    ]


def _health(flags: Mapping[str, Any]) -> Healthcheck | None:
    """The check that the flags ask for; None for the image's own. `InvalidArgument`."""
    periods = {name: flags[f"health_{name}"] for name in ("interval", "timeout", "start_period", "start_interval")}
    said: dict[str, Any] = {name: parse_duration(text) for name, text in periods.items() if text}
    if flags["health_cmd"]:
        said["test"] = ("CMD-SHELL", flags["health_cmd"])
    if flags["health_retries"]:
        said["retries"] = flags["health_retries"]
    if not flags["no_healthcheck"]:
        return Healthcheck(**said) if said else None
    if said:
        raise InvalidArgument("--no-healthcheck conflicts with --health-* options")
    return Healthcheck(test=("NONE",))


def limits_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The limits that are given. `InvalidArgument`."""
    sizes = {name: _limit(flags[name]) for name in ("memory", "memory_swap", "memory_reservation") if flags[name]}
    others = ("cpus", "cpu_period", "cpu_quota", "cpu_shares", "cpuset_cpus", "cpuset_mems", "pids_limit")
    return sizes | {name: flags[name] for name in others if flags[name]}


def _limit(text: str) -> int:
    return -1 if text == "-1" else parse_size(text)


def _security(options: tuple[str, ...]) -> dict[str, Any]:
    """The options of a container that `--security-opt` is about. `InvalidArgument`."""
    found: dict[str, Any] = {}
    for option in options:
        name, _, value = option.replace("=", ":", 1).partition(":")
        match name, value:
            case "seccomp", "unconfined":
                found["seccomp"] = False
            case "seccomp", "builtin" | "default":
                found["seccomp"] = True
            case "seccomp", path if path:
                found["seccomp_profile"] = _file(path)
            case "apparmor", profile if profile:
                found["apparmor"] = profile
            case "no-new-privileges", "" | "true" | "false":
                found["no_new_privileges"] = value != "false"
            case "label", _:
                # SELinux's; docker, too, takes it where there is none.
                continue
            case _:
                raise InvalidArgument(
                    f"security option {option!r} is not supported: expected seccomp=FILE, seccomp=unconfined, "
                    "apparmor=PROFILE or no-new-privileges"
                )
    return found


def _file(path: str) -> str:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"cannot read {path}: {error}") from None


def lines_of(paths: tuple[str, ...]) -> list[str]:
    """Variables or labels: the lines of the files but empty ones and comments, as docker reads them."""
    entries: list[str] = []
    for path in paths:
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as file:
                lines = [line.rstrip("\n").lstrip() for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"cannot read {path}: {error}") from None
        entries += [line for line in lines if line and not line.startswith("#")]
    for entry in entries:
        name = entry.partition("=")[0]
        if not name or name.split() != [name]:
            raise InvalidArgument(f"invalid line {entry[:80]!r}: expected NAME=VALUE, without spaces in the name")
    return entries
