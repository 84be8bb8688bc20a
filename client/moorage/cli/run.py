"""`run` and `create`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import click

from moorage.cli.app import App, connected
from moorage.cli.errors import DAEMON_ERROR, start_failure
from moorage.cli.foreground import Console, attach
from moorage.cli.images import ensure
from moorage.cli.mounts import parse_mount, parse_tmpfs, parse_volume
from moorage.cli.pairs import pairs
from moorage.cli.terminal import DETACH_KEYS
from moorage.cli.units import parse_size
from moorage.create import Created
from moorage.create import create as create_container
from moorage.network.ports import parse as parse_ports
from moorage.options import CGROUP_PARENT, RUNTIME, Bind, ContainerOptions, Tmpfs, Volume
from moorage.times import parse_duration
from moorage_api.errors import InvalidArgument, MoorageError, NotFound
from moorage_api.oci.image import Healthcheck

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("image"),
    click.argument("args", nargs=-1, metavar="[COMMAND [ARG...]]", type=click.UNPROCESSED),
    click.option("-i", "--interactive", is_flag=True, help="Give it the input."),
    click.option("-t", "--tty", is_flag=True, help="Give it a terminal."),
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
    click.option("-w", "--workdir", default="", help="Its working directory."),
    click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Who it runs as."),
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
    click.option("--add-host", multiple=True, metavar="NAME:ADDRESS", help="A line of /etc/hosts."),
    click.option("--restart", default="no", show_default=True, help="no, always, unless-stopped, on-failure[:TIMES]."),
    click.option("--init", is_flag=True, help="Run it under a small init that reaps processes."),
    click.option("-h", "--hostname", default="", help="Its host name; the short id unless given."),
    click.option("--privileged", is_flag=True, help="All that the host has."),
    click.option("--read-only", is_flag=True, help="Its root file system cannot be written."),
    click.option("-m", "--memory", default="", help="Limit of memory, as 512m."),
    click.option("--cpus", type=float, default=0.0, help="Limit of processors, as 1.5."),
    click.option("--shm-size", default="", help="Size of /dev/shm, as 128m."),
    click.option("--ulimit", multiple=True, metavar="NAME=SOFT[:HARD]", help="A limit, as nofile=1024:2048."),
    click.option("--pids-limit", type=int, default=0, help="Limit of processes and threads."),
    click.option("--cap-add", multiple=True, help="Add a capability, or ALL."),
    click.option("--cap-drop", multiple=True, help="Drop a capability, or ALL."),
    click.option("--security-opt", multiple=True, help="no-new-privileges, seccomp=unconfined."),
    click.option("--device", multiple=True, metavar="HOST[:CONTAINER[:rwm]]", help="Add a device."),
    click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Add a label."),
    click.option("--stop-signal", default="", help="What stop sends."),
    click.option("--health-cmd", default="", metavar="COMMAND", help="A shell command; it exits 0 while all is well."),
    click.option("--health-interval", default="", metavar="DURATION", help="Time between two checks [30s]."),
    click.option("--health-timeout", default="", metavar="DURATION", help="Time that a check may take [30s]."),
    click.option("--health-start-period", default="", metavar="DURATION", help="Time in which failures do not count."),
    click.option("--health-retries", type=int, default=0, help="Failures in a row that make it unhealthy [3]."),
    click.option("--no-healthcheck", is_flag=True, help="No check, not even the image's."),
    click.option("--pull", type=click.Choice(["missing", "always", "never"]), default="missing", show_default=True),
    click.option("--platform", default="", help="os/architecture[/variant] of the image."),
    click.option("--runtime", default=RUNTIME, show_default=True, help="The shim's name."),
    click.option("--snapshotter", default="", help="Use this snapshotter."),
    click.option("--cgroup-parent", default=CGROUP_PARENT, envvar="MOORAGE_CGROUP_PARENT", show_default=True),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress of a pull."),
)


def container_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that make a container."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


# What follows the image is the container's command line, whatever it looks like; -h is docker's --hostname.
_CONTEXT: Mapping[str, Any] = {"allow_interspersed_args": False, "help_option_names": ["--help"]}


@click.command(context_settings=_CONTEXT)
@container_options
@click.option("-d", "--detach", is_flag=True, help="Let it run in the background, and print its id.")
@click.option("--detach-keys", default=DETACH_KEYS, show_default=True, help="Keys that leave it running.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to it.")
@connected(failure=DAEMON_ERROR)
async def run(
    app: App, /, image: str, pull: str, platform: str, detach: bool, detach_keys: str, sig_proxy: bool, **flags: Any
) -> int | None:
    """Run a command in a new container.

    The exit code is the command's own; 125 where the daemon failed, 126 where the command cannot be run, 127 where
    it was not found.
    """
    console = Console(flags["interactive"], flags["tty"], detach_keys, sig_proxy)
    if not detach:
        console.check()
    options = replace(read_options(flags), stdin_once=flags["interactive"] and not detach)
    created = await create_container(app.client, await ensure(app, image, pull, platform), options)
    if detach:
        await _detached(created, options)
        return None
    return await _foreground(app, created, console, options)


@click.command(context_settings=_CONTEXT)
@container_options
@connected(failure=DAEMON_ERROR)
async def create(app: App, /, image: str, pull: str, platform: str, **flags: Any) -> None:
    """Make a container and print its id; `start` starts it."""
    resolved = await ensure(app, image, pull, platform)
    options = replace(read_options(flags), stdin_once=flags["interactive"])
    created = await create_container(app.client, resolved, options)
    print(created.handle.id)


async def _detached(created: Created, options: ContainerOptions) -> None:
    container = created.handle
    try:
        await container.start(created.mounts)
    except MoorageError as error:
        if options.auto_remove:
            await container.remove(force=True)
        raise start_failure(error) from error
    print(container.id)


async def _foreground(app: App, created: Created, console: Console, options: ContainerOptions) -> int:
    """Run attached. Whatever ends it but a detaching, what was asked to be removed is removed."""
    container = created.handle
    remove = options.auto_remove
    try:
        async with contextlib.AsyncExitStack() as stack:
            fifos = await stack.enter_async_context(container.fifos(stdin=console.interactive))
            try:
                process = await container.create_attached(fifos, created.mounts)
                status = await attach(process, fifos, console)
            except MoorageError as error:
                raise start_failure(error) from error
            if status is None:
                remove = False
                return 0
        if not remove:
            await container.finish()
        return status
    finally:
        if remove:
            # Removed already where the daemon took this client for dead.
            with contextlib.suppress(NotFound):
                await container.remove(force=True)


def read_options(flags: Mapping[str, Any]) -> ContainerOptions:
    """The options of the command line as the library has them. `InvalidArgument`."""
    mounts = _mounts(flags)
    seccomp, no_new_privileges = _security(flags["security_opt"])
    entrypoint = flags["entrypoint"]
    return ContainerOptions(
        name=flags["name"],
        args=flags["args"],
        entrypoint=None if entrypoint is None else [entrypoint] if entrypoint else [],
        env=[*_env_files(flags["env_file"]), *flags["env"]],
        user=flags["user"],
        workdir=flags["workdir"],
        hostname=flags["hostname"],
        network=flags["network"],
        network_aliases=flags["network_alias"],
        address=flags["ip"],
        terminal=flags["tty"],
        stdin=flags["interactive"],
        privileged=flags["privileged"],
        read_only=flags["read_only"],
        publish=[port for text in flags["publish"] for port in parse_ports(text)],
        dns=flags["dns"],
        extra_hosts=flags["add_host"],
        restart=flags["restart"],
        init=flags["init"],
        ulimits=flags["ulimit"],
        shm_size=parse_size(flags["shm_size"]) if flags["shm_size"] else 0,
        binds=[mount for mount in mounts if isinstance(mount, Bind)],
        volumes=[mount for mount in mounts if isinstance(mount, Volume)],
        tmpfs=[mount for mount in mounts if isinstance(mount, Tmpfs)],
        devices=flags["device"],
        cap_add=flags["cap_add"],
        cap_drop=flags["cap_drop"],
        memory=parse_size(flags["memory"]) if flags["memory"] else 0,
        cpus=flags["cpus"],
        pids_limit=flags["pids_limit"],
        no_new_privileges=no_new_privileges,
        seccomp=seccomp,
        stop_signal=flags["stop_signal"],
        auto_remove=flags["rm"],
        health=_health(flags),
        labels=pairs(flags["label"]),
        runtime=flags["runtime"],
        cgroup_parent=flags["cgroup_parent"],
        snapshotter=flags["snapshotter"],
    )


def _mounts(flags: Mapping[str, Any]) -> list[Bind | Volume | Tmpfs]:
    return [
        *map(parse_volume, flags["volume"]),
        *map(parse_mount, flags["mount"]),
        *map(parse_tmpfs, flags["tmpfs"]),
    ]


def _health(flags: Mapping[str, Any]) -> Healthcheck | None:
    """The check that the flags ask for; None for the image's own. `InvalidArgument`."""
    periods = {name: flags[f"health_{name}"] for name in ("interval", "timeout", "start_period")}
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


def _security(options: tuple[str, ...]) -> tuple[bool, bool]:
    """Whether the default seccomp profile applies, and whether no new privileges may be had."""
    seccomp, no_new_privileges = True, False
    for option in options:
        name, _, value = option.replace("=", ":", 1).partition(":")
        if name == "seccomp" and value == "unconfined":
            seccomp = False
        elif name == "no-new-privileges" and value in ("", "true", "false"):
            no_new_privileges = value != "false"
        else:
            raise InvalidArgument(
                f"security option {option!r} is not supported: expected seccomp=unconfined or no-new-privileges"
            )
    return seccomp, no_new_privileges


def _env_files(paths: tuple[str, ...]) -> list[str]:
    """The lines of the files but empty ones and comments, as docker reads them."""
    entries: list[str] = []
    for path in paths:
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as file:
                lines = [line.rstrip("\n").lstrip() for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"cannot read the file of variables {path}: {error}") from None
        entries += [line for line in lines if line and not line.startswith("#")]
    return entries
