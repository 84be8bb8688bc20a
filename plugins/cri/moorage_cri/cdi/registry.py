"""The CDI devices of this host, as the specification files in some folders describe them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.oci.spec import Spec
from moorage_cri.cdi import document, edits
from moorage_cri.cdi.document import Device, Document, Edits

logger = logging.getLogger(__name__)

_ENDINGS = (".json", ".yaml")

# What a file is known by: its path, inode, size, time of change.
Stamp = tuple[str, int, int, int]


@dataclass(slots=True)
class _Known:
    """Devices by qualified name, those that two files of one folder claim, and what is wrong with files."""

    stamps: tuple[tuple[Stamp, ...], ...] = ()
    devices: dict[str, tuple[Document, Device]] = field(default_factory=dict)
    conflicts: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


class DeviceRegistry:
    """Reads the files of `folders` anew when one has changed; those of a later folder come before those of an earlier
    one. Thread-safe."""

    def __init__(self, folders: Sequence[str] = ()) -> None:
        self._folders = tuple(folders)
        self._lock = threading.Lock()
        self._known = _Known()

    def inject(self, spec: Spec, names: Sequence[str]) -> None:
        """Give a container devices by their qualified names. This does I/O.

        `NotFound` for devices that no file has, with what is wrong with files; else the errors of `edits.apply`.
        """
        if not names:
            return
        known = self._refresh()
        missing = [name for name in names if name not in known.devices]
        if missing:
            hints = [f"{name} is in two files of one folder" for name in missing if name in known.conflicts]
            reasons = "; ".join([*hints, *known.problems])
            where = ", ".join(self._folders) or "no folder"
            raise NotFound(f"CDI devices {', '.join(missing)} are not in {where}{f' ({reasons})' if reasons else ''}")
        edits.apply(spec, _edits([known.devices[name] for name in names]))

    def _refresh(self) -> _Known:
        stamps = tuple(_stamps(folder) for folder in self._folders)
        with self._lock:
            if stamps != self._known.stamps:
                self._known = _read(stamps)
                for problem in self._known.problems:
                    logger.warning("CDI: %s", problem)
            return self._known


def _stamps(folder: str) -> tuple[Stamp, ...]:
    try:
        with os.scandir(folder) as entries:
            files = sorted(entry.path for entry in entries if entry.name.endswith(_ENDINGS))
    except OSError:
        # A vendor makes the folder with its first file.
        return ()
    found = []
    for path in files:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue
        found.append((path, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _read(stamps: tuple[tuple[Stamp, ...], ...]) -> _Known:
    known = _Known(stamps)
    for folder in stamps:
        here: set[str] = set()
        for path, *_ in folder:
            try:
                found = document.read(path)
            except InvalidArgument as error:
                known.problems.append(error.message)
            except OSError as error:
                known.problems.append(f"{path}: {error.strerror}")
            else:
                for device in found.devices:
                    name = f"{found.kind}={device.name}"
                    if name in here:
                        known.conflicts.add(name)
                    else:
                        known.conflicts.discard(name)
                    here.add(name)
                    known.devices[name] = found, device
    for name in known.conflicts:
        del known.devices[name]
    return known


def _edits(devices: Sequence[tuple[Document, Device]]) -> list[Edits]:
    """A document's own edits come before those of the first of its devices, and once."""
    found: list[Edits] = []
    seen: list[Document] = []
    for of, device in devices:
        if not any(of is other for other in seen):
            seen.append(of)
            found.append(of.container_edits)
        found.append(device.container_edits)
    return found
