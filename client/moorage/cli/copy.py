"""`cp`: files between a container and the host."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable

import click

from moorage.cli.app import App, connected
from moorage.cli.errors import CommandError
from moorage.container import ContainerHandle
from moorage.find import find
from moorage.rootfs import open_inside, with_rootfs
from moorage_api.errors import InvalidArgument

_LINKS_MAX = 40
"""As many links as the kernel follows."""


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("-a", "--archive", is_flag=True, help="Keep owners.")
@click.option("-L", "--follow-link", is_flag=True, help="Copy what the source leads to where it is a link.")
@click.option("-q", "--quiet", is_flag=True, hidden=True)
@connected()
async def cp(app: App, source: str, target: str, archive: bool, follow_link: bool) -> None:
    """Copy files: CONTAINER:PATH to the host, or the host's to CONTAINER:PATH; `-` on the host's side is a tar."""
    (outer, origin), (inner, place) = _split(source), _split(target)
    if bool(outer) == bool(inner):
        raise InvalidArgument("give one path as CONTAINER:PATH and the other as one of the host")
    handle = await find(app.client, outer or inner)
    keep = "--preserve=all" if archive else "--preserve=mode,timestamps,links"
    if outer:
        await _in_rootfs(app, handle, lambda root: _out(root, origin, place, keep, follow=follow_link))
    else:
        links = "-H" if follow_link else "-P"
        await _in_rootfs(app, handle, lambda root: _in(root, origin, place, ["cp", "-R", links, keep]))


def _split(text: str) -> tuple[str, str]:
    """A container (empty: the host) and a path. A path that begins with `/` or `.` may hold colons."""
    container, colon, path = text.partition(":")
    if not colon or text.startswith(("/", ".")):
        return "", text
    return container, path or "/"


async def _in_rootfs(app: App, handle: ContainerHandle, work: Callable[[str], None]) -> None:
    """Call `work` with a container's root file system: through its first process where it runs, else mounted."""
    state = await handle.state()
    if state.running and state.pid:
        await asyncio.to_thread(work, f"/proc/{state.pid}/root")
        return
    mounts = await app.client.snapshots(handle.record.snapshotter).mounts(handle.record.snapshot_key)
    await asyncio.to_thread(with_rootfs, mounts, "copy files", work)


def _out(root: str, path: str, target: str, keep: str, *, follow: bool) -> None:
    if follow and target != "-" and os.path.isdir(target):
        # It keeps the name of the link.
        target = os.path.join(target, os.path.basename(path))
    folder, name = _parent(root, _followed(root, path) if follow else path)
    try:
        if target == "-":
            _run(["tar", "-C", f"/proc/self/fd/{folder}", "-cf", "-", "--", name], folder, path)
        else:
            _run(["cp", "-R", "-P", keep, "--", f"/proc/self/fd/{folder}/{name}", target], folder, path)
    finally:
        os.close(folder)


def _in(root: str, source: str, path: str, command: list[str]) -> None:
    try:
        folder, name = open_inside(root, path, os.O_RDONLY | os.O_DIRECTORY), ""
    except OSError:
        # Not a folder: a file of that name, in the folder that it is in. A link there is replaced, not followed.
        if source == "-" or path.endswith("/"):
            raise CommandError(f"there is no folder {path} in the container") from None
        folder, name = _parent(root, path)
    try:
        if source == "-":
            _run(["tar", "-C", f"/proc/self/fd/{folder}", "-xpf", "-"], folder, path)
        elif name:
            whole = [*command, "-T", "--remove-destination"]
            _run([*whole, "--", source, f"/proc/self/fd/{folder}/{name}"], folder, source)
        else:
            _run([*command, "--remove-destination", "--", source, f"/proc/self/fd/{folder}/"], folder, source)
    finally:
        os.close(folder)


def _followed(root: str, path: str) -> str:
    """Where the links that a path ends in lead inside the container."""
    for _ in range(_LINKS_MAX):
        folder, name = _parent(root, path)
        try:
            path = os.path.join(os.path.dirname(path.rstrip("/")), os.readlink(name, dir_fd=folder))
        except OSError:
            return path
        finally:
            os.close(folder)
    raise CommandError(f"cannot open {path} in the container: too many links")


def _parent(root: str, path: str) -> tuple[int, str]:
    """The folder that a path is in, opened, and its last name (`.` where the path ends so: the folder's contents)."""
    inside, _, name = path.rstrip("/").rpartition("/")
    if name in ("", ".", ".."):
        inside, name = path, "."
    try:
        return open_inside(root, inside or "/", os.O_RDONLY | os.O_DIRECTORY), name
    except OSError as error:
        raise CommandError(f"cannot open {path} in the container: {error.strerror}") from None


def _run(command: list[str], folder: int, path: str) -> None:
    done = subprocess.run(command, pass_fds=[folder], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        # What the program says names our descriptor, which means nothing to the user.
        reason = done.stderr.strip().splitlines()[0].rpartition(": ")[2] if done.stderr.strip() else "it failed"
        raise CommandError(f"cannot copy {path}: {reason}")
