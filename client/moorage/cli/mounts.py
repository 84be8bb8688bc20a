"""The forms in which docker's users ask for mounts: `-v`, `--mount`, `--tmpfs`."""

from __future__ import annotations

import os

from moorage.options import Bind, Tmpfs, Volume
from moorage.volumes import check_volume_name
from moorage_api.errors import InvalidArgument

_MODES = {"": False, "rw": False, "ro": True, "z": False, "Z": False}


def parse_volume(text: str) -> Bind | Volume:
    """`HOST:CONTAINER[:ro]`, or a volume's `NAME:CONTAINER[:ro]`. `InvalidArgument`.

    A folder of the host that is not there is made, as docker does.
    """
    source, *rest = text.split(":")
    if len(rest) not in (1, 2) or not source or not rest[0].startswith("/"):
        raise InvalidArgument(f"invalid volume {text!r}: expected HOST:CONTAINER[:ro], both absolute paths")
    read_only = False
    for mode in rest[1].split(",") if len(rest) == 2 else ():
        if mode not in _MODES:
            raise InvalidArgument(f"invalid volume {text!r}: unknown mode {mode!r}, expected ro or rw")
        read_only = read_only or _MODES[mode]
    if not source.startswith(("/", ".", "~")):
        return Volume(check_volume_name(source), rest[0], read_only)
    path = os.path.abspath(os.path.expanduser(source))
    try:
        if not os.path.exists(path):
            os.makedirs(path)
    except OSError as error:
        raise InvalidArgument(f"invalid volume {text!r}: cannot make {path}: {error.strerror}") from None
    return Bind(path, rest[0], read_only)


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
    kind = fields.pop("type", "bind")
    target = _one(fields, "target", "destination", "dst")
    source = _one(fields, "source", "src")
    if kind == "tmpfs":
        options = [
            f"{name}={fields.pop(key)}"
            for key, name in (("tmpfs-size", "size"), ("tmpfs-mode", "mode"))
            if key in fields
        ]
        mount: Bind | Tmpfs | Volume = Tmpfs(target, ("noexec", "nosuid", "nodev", *options))
    elif kind == "bind":
        read_only = _one(fields, "readonly", "ro") in ("true", "1")
        if not os.path.exists(source):
            raise InvalidArgument(f"invalid mount {text!r}: the source {source!r} is not there")
        mount = Bind(os.path.abspath(source), target, read_only)
    elif kind == "volume" and source:
        mount = Volume(check_volume_name(source), target, _one(fields, "readonly", "ro") in ("true", "1"))
    else:
        wrong = (
            "the volume has no name" if kind == "volume" else f"unknown type {kind!r}, expected bind, volume or tmpfs"
        )
        raise InvalidArgument(f"invalid mount {text!r}: {wrong}")
    if fields or not target:
        wrong = f"unknown key {next(iter(fields))!r}" if fields else "the target is missing"
        raise InvalidArgument(f"invalid mount {text!r}: {wrong}")
    return mount


def _one(fields: dict[str, str], *keys: str) -> str:
    """The value under the first of the keys that is there; all are taken out."""
    values = [fields.pop(key) for key in keys if key in fields]
    return values[0] if values else ""
