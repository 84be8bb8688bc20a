"""What the prefixes of a mount's type ask for before it is performed: templates filled in, folders made."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.linux import syscalls
from moorage_api.mounts import ActiveMount, Mount

Transformer = Callable[[Mount, Sequence[ActiveMount]], Mount]

_TEMPLATE = re.compile(r"\{\{\s*(\w+)((?:\s+\d+)*)\s*\}\}")
_MKDIR = "X-containerd.mkdir."
_MODE_MAX = 0o777


def split(type: str) -> tuple[list[str], str]:
    """The prefixes of a type that are known here, in order, and what is left of it."""
    prefixes: list[str] = []
    while True:
        prefix, slash, rest = type.partition("/")
        if not slash or prefix not in PREFIXES:
            return prefixes, type
        prefixes.append(prefix)
        type = rest


def fill_in(mount: Mount, active: Sequence[ActiveMount]) -> Mount:
    """`format/`: the templates in its source, target and options, from the mounts before it. `InvalidArgument`."""

    def filled(text: str) -> str:
        result = _TEMPLATE.sub(lambda found: _value(found[1], [int(n) for n in found[2].split()], active), text)
        if "{{" in result:
            raise InvalidArgument(f"the template {text!r} cannot be read")
        return result

    options = tuple(filled(option) for option in mount.options)
    return replace(mount, source=filled(mount.source), target=filled(mount.target), options=options)


def _value(function: str, arguments: Sequence[int], active: Sequence[ActiveMount]) -> str:
    wanted = {"source": 1, "target": 1, "mount": 1, "overlay": 2}.get(function)
    if len(arguments) != wanted:
        raise InvalidArgument(f"a template calls {function!r} with {len(arguments)} arguments")
    if any(index >= len(active) for index in arguments):
        raise InvalidArgument(f"a template names mount {max(arguments)}: {len(active)} come before it")
    first = active[arguments[0]]
    match function:
        case "source":
            return first.mount.source
        case "target":
            return first.mount.target
        case "mount":
            return first.mount_point
    start, end = arguments
    step = 1 if start <= end else -1
    return ":".join(active[index].mount_point for index in range(start, end + step, step))


def folder_maker(roots: Sequence[Path]) -> Transformer:
    """`mkdir/`: makes the folders that the options name, below one of `roots`, and drops these options."""

    def make(mount: Mount, active: Sequence[ActiveMount]) -> Mount:
        for option in mount.options:
            if option.startswith(_MKDIR):
                _make_folder(option, roots)
        return replace(mount, options=tuple(option for option in mount.options if not option.startswith(_MKDIR)))

    return make


def _make_folder(option: str, roots: Sequence[Path]) -> None:
    """One option `X-containerd.mkdir.path=PATH[:MODE[:UID:GID]]`; a folder that is there already stays as it is."""
    key, _, value = option.removeprefix(_MKDIR).partition("=")
    path, *rest = value.split(":")
    if key != "path" or len(rest) not in (0, 1, 3):
        raise InvalidArgument(f"invalid option {option!r}: expected {_MKDIR}path=PATH[:MODE[:UID:GID]]")
    try:
        mode = int(rest[0], 8) if rest else 0o700
        owner = (int(rest[1]), int(rest[2])) if len(rest) == 3 else (-1, -1)
    except ValueError:
        raise InvalidArgument(f"invalid option {option!r}: mode, user or group is no number") from None
    if not 0 <= mode <= _MODE_MAX:
        raise InvalidArgument(f"invalid option {option!r}: mode {mode:o}")
    root = next((root for root in roots if Path(path).is_relative_to(root)), None)
    if root is None or Path(path) == root:
        raise InvalidArgument(f"cannot make {path}: only folders below {', '.join(map(str, roots))}")
    relative = Path(path).relative_to(root)
    try:
        _mkdir_beneath(root, relative, mode, owner)
    except FileExistsError:
        return
    except OSError as error:
        raise FailedPrecondition(f"cannot make {path}: {error.strerror}") from error


def _mkdir_beneath(root: Path, relative: Path, mode: int, owner: tuple[int, int]) -> None:
    """Neither `..` nor a link on the way leads out of `root`."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_PATH | os.O_DIRECTORY
        parent = syscalls.openat2(top, str(relative.parent), flags, resolve=syscalls.RESOLVE_BENEATH)
    finally:
        os.close(top)
    try:
        os.mkdir(relative.name, mode, dir_fd=parent)
        if owner != (-1, -1):
            os.chown(relative.name, *owner, dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(parent)


PREFIXES = ("format", "mkdir")
"""What a type may have before it; `split` takes them off."""
