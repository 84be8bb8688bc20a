"""The forms in which docker's users ask for mounts: `-v`, `--mount`, `--tmpfs`, `--volumes-from`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from moorage.client import Client
from moorage.find import find
from moorage.options import Bind, ContainerOptions, Tmpfs, Volume, options_of
from moorage.volumes import check_volume_name
from moorage_api.errors import FailedPrecondition, InvalidArgument

Lent = TypeVar("Lent", Bind, Volume)

_PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")
_MODES = {"": False, "rw": False, "ro": True, "z": False, "Z": False}


def parse_volume(text: str) -> Bind | Volume:
    """`HOST:CONTAINER[:ro]`, or a volume's `NAME:CONTAINER[:ro]`, or `CONTAINER` alone for one without a name.
    `InvalidArgument`.

    A folder of the host that is not there is made, as docker does.
    """
    source, *rest = text.split(":")
    if not rest and source.startswith("/"):
        return Volume("", source)
    if len(rest) not in (1, 2) or not source or not rest[0].startswith("/"):
        raise InvalidArgument(f"invalid volume {text!r}: expected HOST:CONTAINER[:ro], both absolute paths")
    modes = rest[1].split(",") if len(rest) == 2 else []
    propagation = next((mode for mode in modes if mode in _PROPAGATIONS), "rprivate")
    known = _MODES | dict.fromkeys((*_PROPAGATIONS, "nocopy"), False)
    for mode in modes:
        if mode not in known:
            raise InvalidArgument(f"invalid volume {text!r}: unknown mode {mode!r}, expected ro or rw")
    read_only = any(known[mode] for mode in modes)
    if not source.startswith(("/", ".", "~")):
        return Volume(check_volume_name(source), rest[0], read_only, "nocopy" not in modes)
    path = os.path.abspath(os.path.expanduser(source))
    try:
        if not os.path.exists(path):
            os.makedirs(path)
    except OSError as error:
        raise InvalidArgument(f"invalid volume {text!r}: cannot make {path}: {error.strerror}") from None
    return Bind(path, rest[0], read_only, propagation)


def parse_tmpfs(text: str) -> Tmpfs:
    """`PATH[:OPTIONS]`, options as mount(8) takes them."""
    target, _, options = text.partition(":")
    return Tmpfs(target, tuple(options.split(",")) if options else ())


def parse_mount(text: str) -> Bind | Tmpfs | Volume:
    """`type=bind|volume,source=…,target=…[,readonly]` or `type=tmpfs,target=…[,tmpfs-size=…]`. `InvalidArgument`."""
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        fields[key] = value if equals else "true"
    kind = fields.pop("type", "volume")
    target = _one(fields, "target", "destination", "dst")
    if kind not in _KINDS:
        raise InvalidArgument(f"invalid mount {text!r}: unknown type {kind!r}, expected bind, volume or tmpfs")
    mount = _KINDS[kind](fields, target, text)
    if fields or not target.startswith("/"):
        wrong = f"unknown key {next(iter(fields))!r}" if fields else "it needs a target, an absolute path"
        raise InvalidArgument(f"invalid mount {text!r}: {wrong}")
    return mount


def _tmpfs(fields: dict[str, str], target: str, text: str) -> Tmpfs:
    names = (("tmpfs-size", "size"), ("tmpfs-mode", "mode"))
    options = [f"{name}={fields.pop(key)}" for key, name in names if key in fields]
    return Tmpfs(target, ("noexec", "nosuid", "nodev", *options))


def _bind(fields: dict[str, str], target: str, text: str) -> Bind:
    source, read_only = _one(fields, "source", "src"), _is_read_only(fields)
    propagation = fields.pop("bind-propagation", "rprivate")
    if propagation not in _PROPAGATIONS:
        raise InvalidArgument(f"invalid mount {text!r}: unknown propagation {propagation!r}")
    if not os.path.exists(source):
        raise InvalidArgument(f"invalid mount {text!r}: the source {source!r} is not there")
    return Bind(os.path.abspath(source), target, read_only, propagation)


def _volume(fields: dict[str, str], target: str, text: str) -> Volume:
    name, read_only = _one(fields, "source", "src"), _is_read_only(fields)
    copy = fields.pop("volume-nocopy", "false") not in ("true", "1")
    return Volume(check_volume_name(name) if name else "", target, read_only, copy)


_KINDS: dict[str, Callable[[dict[str, str], str, str], Bind | Tmpfs | Volume]] = {
    "bind": _bind,
    "volume": _volume,
    "tmpfs": _tmpfs,
}


async def with_volumes_from(client: Client, options: ContainerOptions, texts: Sequence[str]) -> ContainerOptions:
    """The options with the volumes and binds of the containers `NAME[:ro|rw]`, but where something else is mounted.
    `NotFound`, `InvalidArgument`; `FailedPrecondition` for a container that another client made."""
    binds, volumes = list(options.binds), list(options.volumes)
    for text in texts:
        name, _, mode = text.partition(":")
        if mode not in ("", "ro", "rw"):
            raise InvalidArgument(f"invalid --volumes-from {text!r}: expected CONTAINER, CONTAINER:ro or CONTAINER:rw")
        handle = await find(client, name)
        theirs = options_of(handle.record)
        if theirs is None:
            raise FailedPrecondition(f"the volumes of container {handle.name} are not known: another client made it")
        targets = [*(bind.target for bind in binds), *(volume.target for volume in volumes)]
        taken = {target.rstrip("/") for target in (*targets, *(tmpfs.target for tmpfs in options.tmpfs))}
        binds += _lent(theirs.binds, taken, read_only=mode == "ro")
        volumes += _lent(theirs.volumes, taken, read_only=mode == "ro")
    return replace(options, binds=binds, volumes=volumes)


def _lent(mounts: Sequence[Lent], taken: Collection[str], *, read_only: bool) -> list[Lent]:
    free = [mount for mount in mounts if mount.target.rstrip("/") not in taken]
    return [replace(mount, read_only=mount.read_only or read_only) for mount in free]


def _is_read_only(fields: dict[str, str]) -> bool:
    return _one(fields, "readonly", "ro") in ("true", "1")


def _one(fields: dict[str, str], *keys: str) -> str:
    """The value under the first of the keys that is there; all are taken out."""
    values = [fields.pop(key) for key in keys if key in fields]
    return values[0] if values else ""
