"""Named volumes: folders of the daemon's, `<namespace>/<name>/_data`, that outlive the containers that mount them."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from moorage.options import ContainerOptions, Volume
from moorage.rootfs import open_inside, read_only, with_rootfs
from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from moorage_api.mounts import Mount
from moorage_api.oci import spec as oci

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
ANONYMOUS = "com.docker.volume.anonymous"
"""docker's label of volumes that were made without a name."""
_DATA, _ABOUT = "_data", "volume.json"


@dataclass(frozen=True, slots=True)
class NamedVolume:
    """A volume. `path` is where its files are; `created` RFC 3339."""

    name: str
    path: str
    created: str
    labels: Mapping[str, str] = field(default_factory=dict)


def check_volume_name(name: str) -> str:
    """Return a name if docker would take it, else raise `InvalidArgument`."""
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument(f"invalid volume name {name!r}: expected letters, digits, '_', '.' and '-'")
    return name


def with_names(options: ContainerOptions, of_image: Iterable[str]) -> ContainerOptions:
    """The options with a name for each volume that has none, and with the image's own volumes, unless something else is
    mounted there."""
    targets = [*(each.target for each in options.volumes), *(each.target for each in options.binds)]
    taken = {target.rstrip("/") for target in (*targets, *(each.target for each in options.tmpfs))}
    asked = [*options.volumes, *(Volume("", path) for path in of_image if path.rstrip("/") not in taken)]
    named = [replace(volume, name=volume.name or secrets.token_hex(32)) for volume in asked]
    own = [after.name for before, after in zip(asked, named, strict=True) if not before.name]
    return replace(options, volumes=named, anonymous_volumes=own)


def mount(spec: oci.Spec, options: ContainerOptions, root: str, namespace: str, rootfs: Sequence[Mount]) -> None:
    """Name the folders of volumes in the specification; those that are not there are made. Blocks."""
    if not options.volumes:
        return
    volumes = Volumes(root, namespace)
    for volume in options.volumes:
        mode = "ro" if volume.read_only else "rw"
        labels = {ANONYMOUS: ""} if volume.name in options.anonymous_volumes else {}
        path = volumes.ensure(volume.name, volume.target, rootfs if volume.copy else (), labels).path
        oci.add_mount(spec, volume.target, path, options=("rbind", "rprivate", mode))


class Volumes:
    """The volumes of one namespace, in a folder. All calls block."""

    def __init__(self, root: str, namespace: str) -> None:
        """`FailedPrecondition` where the daemon has no folder for them (`root` is empty)."""
        if not root:
            raise FailedPrecondition("this daemon keeps no volumes")
        self._folder = os.path.join(root, namespace)

    def get(self, name: str) -> NamedVolume:
        """`NotFound`."""
        folder = os.path.join(self._folder, check_volume_name(name))
        try:
            with open(os.path.join(folder, _ABOUT), encoding="utf-8") as file:
                about = json.load(file)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"no such volume: {name}") from None
        return NamedVolume(name, os.path.join(folder, _DATA), about["created"], about["labels"])

    def list(self) -> list[NamedVolume]:
        """All, by name."""
        found: list[NamedVolume] = []
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._folder)):
                # One that is being made, or removed, at this moment.
                with contextlib.suppress(NotFound, InvalidArgument):
                    found.append(self.get(name))
        return found

    def create(self, name: str, labels: Mapping[str, str] | None = None) -> NamedVolume:
        """Make an empty volume. `AlreadyExists`."""
        folder = os.path.join(self._folder, check_volume_name(name))
        os.makedirs(self._folder, mode=0o711, exist_ok=True)
        try:
            os.mkdir(folder, 0o711)
        except FileExistsError:
            raise AlreadyExists(f"volume {name} exists already") from None
        os.mkdir(os.path.join(folder, _DATA), 0o755)
        created = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        # Written last: a volume without it is none.
        with open(os.path.join(folder, _ABOUT), "w", encoding="utf-8") as file:
            json.dump({"created": created, "labels": dict(labels or {})}, file)
        return self.get(name)

    def ensure(self, name: str, target: str, rootfs: Sequence[Mount], labels: Mapping[str, str]) -> NamedVolume:
        """The volume of that name; a new one gets what the image has at `target`, as docker does. Without `rootfs` it
        stays empty."""
        try:
            return self.get(name)
        except NotFound:
            volume = self.create(name, labels)
        if not rootfs:
            return volume
        try:
            with_rootfs(read_only(rootfs), f"copy {target}", lambda root: _copy(root, target, volume.path))
        except BaseException:
            self.remove(name)
            raise
        return volume

    def remove(self, name: str) -> None:
        """Remove a volume with all that is in it. `NotFound`."""
        volume = self.get(name)
        os.unlink(os.path.join(os.path.dirname(volume.path), _ABOUT))
        shutil.rmtree(os.path.dirname(volume.path))


def _copy(root: str, target: str, into: str) -> None:
    """Copy a folder of a root file system with owners, modes and attributes; nothing where there is no such folder."""
    try:
        fd = open_inside(root, target, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        command = ["cp", "-a", "--", f"/proc/self/fd/{fd}/.", into]
        done = subprocess.run(command, pass_fds=[fd], capture_output=True, text=True, check=False)
    finally:
        os.close(fd)
    if done.returncode:
        raise FailedPrecondition(f"cannot copy {target} into the volume: {done.stderr.strip()}")
