"""The mount manager: `<folder>/<number>/` for each activation, with its mount points and, once all is mounted, its record.

The folder lies below the daemon's state folder, as mounts do not survive a restart of the machine. A folder without a
record is what a killed daemon left half-done: it is taken down at the next start.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from moorage_api import fieldpaths as masks
from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from moorage_api.filters import Adaptor, parse
from moorage_api.linux import mount
from moorage_api.mounts import Activation, ActiveMount, Mount
from moorage_api.types import Labels
from mooraged.mounts import transform

log = logging.getLogger(__name__)
_RECORD = "activation.json"


class _Record(msgspec.Struct, frozen=True):
    """What is kept of an activation."""

    namespace: str
    activation: Activation


class LocalMountManager:
    """`moorage_api.mounts.MountManager` on a folder of its own. `roots` are where `mkdir/` may make folders."""

    def __init__(self, folder: Path, roots: Sequence[Path]) -> None:
        self._folder = folder
        self._transformers = {"format": transform.fill_in, "mkdir": transform.folder_maker([folder, *roots])}
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], tuple[Path, Activation]] = {}
        self._numbers = itertools.count(1)
        self._load()

    def activate(
        self, namespace: str, name: str, mounts: Sequence[Mount], labels: Labels, *, temporary: bool = False
    ) -> Activation:
        if not name:
            raise InvalidArgument("an activation needs a name")
        count = _performed(mounts, temporary)
        if count is None:
            raise Unimplemented("there is nothing to activate: the client can perform these mounts itself")
        kept = masks.without_empty(labels)
        with self._lock:
            if (namespace, name) in self._found:
                raise AlreadyExists(f"mount {name!r} is active already")
            folder = self._folder / str(next(self._numbers))
            folder.mkdir(mode=0o700)
            try:
                active, left = self._perform(folder, mounts, count, temporary)
                activation = Activation(name, active, left, kept)
                self._write(folder, namespace, activation)
            except BaseException:
                _take_down(folder)
                raise
            self._found[namespace, name] = folder, activation
        return activation

    def deactivate(self, namespace: str, name: str) -> None:
        with self._lock:
            folder, _ = self._get(namespace, name)
            try:
                _take_down(folder)
            except OSError as error:
                raise FailedPrecondition(f"mount {name!r} cannot be taken down: {error}") from error
            del self._found[namespace, name]

    def info(self, namespace: str, name: str) -> Activation:
        with self._lock:
            return self._get(namespace, name)[1]

    def update(self, namespace: str, activation: Activation, fieldpaths: Sequence[str] = ()) -> Activation:
        with self._lock:
            folder, current = self._get(namespace, activation.name)
            labels = masks.update_labels(current.labels, activation.labels, fieldpaths, f"mount {current.name!r}")
            changed = replace(current, labels=labels)
            self._write(folder, namespace, changed)
            self._found[namespace, activation.name] = folder, changed
            return changed

    def list(self, namespace: str, filters: Sequence[str] = ()) -> list[Activation]:
        wanted = parse(filters)
        with self._lock:
            found = [activation for (space, _), (_, activation) in self._found.items() if space == namespace]
        return sorted((each for each in found if wanted.matches(_adaptor(each))), key=lambda each: each.name)

    def _perform(
        self, folder: Path, mounts: Sequence[Mount], count: int, temporary: bool
    ) -> tuple[tuple[ActiveMount, ...], tuple[Mount, ...]]:
        """Mount the first `count` below the folder, each at a place of its own; returns these, and what is left."""
        active: tuple[ActiveMount, ...] = ()
        for index, request in enumerate(mounts[:count]):
            ready = self._transformed(request, active)
            point = folder / str(index)
            point.mkdir(mode=0o700)
            try:
                mount.mount(ready, str(point))
            except OSError as error:
                raise FailedPrecondition(f"mount {index} ({ready.type} of {ready.source}) failed: {error}") from error
            active += (ActiveMount(ready, str(point), time.time_ns()),)
        left = tuple(self._transformed(request, active) for request in mounts[count:])
        if temporary:
            left += (Mount("bind", active[-1].mount_point, options=("rbind",)),)
        return active, left

    def _transformed(self, request: Mount, active: Sequence[ActiveMount]) -> Mount:
        prefixes, type = transform.split(request.type)
        for prefix in prefixes:
            request = self._transformers[prefix](request, active)
        return replace(request, type=type)

    def _get(self, namespace: str, name: str) -> tuple[Path, Activation]:
        try:
            return self._found[namespace, name]
        except KeyError:
            raise NotFound(f"mount {name!r} is not active") from None

    def _write(self, folder: Path, namespace: str, activation: Activation) -> None:
        draft = folder / f"{_RECORD}.new"
        draft.write_bytes(msgspec.json.encode(_Record(namespace, activation)))
        draft.replace(folder / _RECORD)

    def _load(self) -> None:
        """Find the activations of the daemon before this one, and take down what it had not finished."""
        for folder in sorted(self._folder.iterdir()):
            try:
                record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=_Record)
            except (OSError, msgspec.MsgspecError) as error:
                log.info("mounts in %s were not finished and are taken down: %s", folder, error)
                try:
                    _take_down(folder)
                except OSError as busy:
                    log.warning("mounts in %s cannot be taken down: %s", folder, busy)
            else:
                self._found[record.namespace, record.activation.name] = folder, record.activation
        used = [int(entry.name) for entry in self._folder.iterdir() if entry.name.isdigit()]
        self._numbers = itertools.count(max(used, default=0) + 1)


def _performed(mounts: Sequence[Mount], temporary: bool) -> int | None:
    """How many mounts the manager performs: all, or those before the last that has to be transformed. None where the
    client needs no manager."""
    if temporary:
        return len(mounts) or None
    return max((index for index, each in enumerate(mounts) if transform.split(each.type)[0]), default=None)


def _take_down(folder: Path) -> None:
    """Unmount all below the folder and remove it. With rmdir alone: were a mount to stay, its files would too."""
    mount.unmount_recursive(str(folder))
    for entry in folder.iterdir():
        if entry.is_dir():
            entry.rmdir()
        else:
            entry.unlink()
    folder.rmdir()


def _adaptor(activation: Activation) -> Adaptor:
    def value(path: Sequence[str]) -> str | None:
        match path:
            case ["name"]:
                return activation.name
            case ["labels", *key]:
                return activation.labels.get(".".join(key))
        return None

    return value
