"""Bundles: the folder of a task (or of a sandbox) that shims work in, and what the daemon needs to find them again.

    <folder>/<namespace>/<id>/config.json      the OCI runtime configuration
                             /rootfs/          where the shim mounts the root file system
                             /launch.json      which shim was to run it: written before the shim starts
                             /bootstrap.json   where the shim listens: written when it does
                             /record.json      that the client was told of its creation, and how it ended
    <folder>/<namespace>/.<id>.<random>/       on its way in or out

A bundle without `record.json` is a creation that nobody was told of. Files are replaced by rename, never rewritten. The
folder lies on a file system that a reboot clears, so nothing is synced.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from moorage_api.errors import AlreadyExists, DataLoss
from moorage_api.linux import mount
from moorage_api.runtime import Stdio
from moorage_api.shim import Bootstrap
from moorage_api.types import check_identifier

T = TypeVar("T")
_NOWHERE = Stdio()

CONFIG = "config.json"
ROOTFS = "rootfs"
_LAUNCH = "launch.json"
_CHECKPOINT = "checkpoint"
_BOOTSTRAP = "bootstrap.json"
_RECORD = "record.json"
# How often a folder that somebody still writes into is removed again, and the seconds in between.
_ATTEMPTS, _PAUSE = 20, 0.02


@dataclass(frozen=True, slots=True)
class Launch:
    """Which shim runs it: `launcher` is the id of a SHIM plugin or the absolute path of a shim's binary.

    `sandbox_id` is set where the shim is that of a sandbox.
    """

    launcher: str
    runtime: str
    sandbox_id: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A shim's bootstrap, with the start time of its process (clock ticks since boot) that tells its pid from a reused one."""

    bootstrap: Bootstrap
    started: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """What the client was told of: a task's first process, or a sandbox (`pid`, `created_at`), and its end when known."""

    pid: int
    created_at: int
    stdio: Stdio = _NOWHERE
    exited: bool = False
    exit_status: int = 0
    exited_at: int = 0


class Bundle:
    """One bundle's folder."""

    __slots__ = ("id", "namespace", "path")

    def __init__(self, folder: Path, namespace: str, id: str) -> None:
        self.path = folder / namespace / id
        self.namespace = namespace
        self.id = id

    @property
    def rootfs(self) -> Path:
        return self.path / ROOTFS

    def create(self, config: bytes, launch: Launch) -> None:
        """Make the folder whole, then give it its name. `AlreadyExists`."""
        parent = self.path.parent
        parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        staged = parent / f".{self.id}.{secrets.token_hex(4)}"
        staged.mkdir(mode=0o700)
        try:
            (staged / ROOTFS).mkdir(mode=0o711)
            if config:
                (staged / CONFIG).write_bytes(config)
                _open_to(staged, root_owner(config))
            (staged / _LAUNCH).write_bytes(msgspec.json.encode(launch))
            os.rename(staged, self.path)
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise AlreadyExists(f"bundle of {self.id} already exists") from error
            raise

    def remove(self) -> None:
        """Unmount what is mounted there and remove the folder; no folder is fine.

        A mount that can't be taken down stays, with the folder, and its `OSError` is raised: files of a root file
        system that is still mounted must not be reached by the removal.
        """
        mount.unmount_all(str(self.rootfs))
        doomed = self.path.parent / f".{self.id}.{secrets.token_hex(4)}"
        try:
            self._empty()
            os.rename(self.path, doomed)
        except FileNotFoundError:
            return
        _erase(doomed)

    def _empty(self) -> None:
        try:
            os.rmdir(self.rootfs)
        except FileNotFoundError:
            return
        except OSError:
            # Something is mounted below it, or a client wrote there without a mount.
            mount.unmount_recursive(str(self.path))
            if any(entry.target.startswith(f"{self.path}/") for entry in mount.mountinfo()):
                raise

    def adopt_checkpoint(self, folder: str) -> str:
        """Move a folder with a checkpoint here, for the runtime to restore from when the task starts; returns its path."""
        return str(shutil.move(folder, self.path / _CHECKPOINT))

    @property
    def has_checkpoint(self) -> bool:
        return (self.path / _CHECKPOINT).exists()

    def drop_checkpoint(self) -> None:
        """Remove it: the memory of processes takes room."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path / _CHECKPOINT)

    def launch(self) -> Launch | None:
        return self._read(_LAUNCH, Launch)

    def endpoint(self) -> Endpoint | None:
        return self._read(_BOOTSTRAP, Endpoint)

    def record(self) -> Record | None:
        return self._read(_RECORD, Record)

    def write_endpoint(self, endpoint: Endpoint) -> None:
        self._write(_BOOTSTRAP, endpoint)

    def write_record(self, record: Record) -> None:
        self._write(_RECORD, record)

    def _write(self, name: str, value: object) -> None:
        staged = self.path / f".{name}"
        staged.write_bytes(msgspec.json.encode(value))
        os.rename(staged, self.path / name)

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode((self.path / name).read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise DataLoss(f"{self.path / name} is damaged: {error}") from error


def _erase(folder: Path) -> None:
    """Remove a folder in which a shim that is about to end may still write, rename and remove its last words."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if not folder.exists():
                return
            if not left or error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise
            time.sleep(_PAUSE)
        else:
            return


def shim_pid(bundle: Path) -> int:
    """The pid that the shim itself wrote, as containerd's shims do; zero where there is none."""
    try:
        return int((bundle / "shim.pid").read_bytes())
    except (FileNotFoundError, ValueError):
        return 0


def shim_address(bundle: Path) -> str:
    """The address that the shim itself wrote; empty where there is none."""
    try:
        return (bundle / "address").read_text().strip()
    except FileNotFoundError:
        return ""


def scan(folder: Path) -> Iterator[Bundle]:
    """All bundles below `folder`; what was on its way in or out is removed."""
    for namespace in _folders(folder):
        for entry in _folders(folder / namespace):
            if entry.startswith("."):
                mount.unmount_recursive(str(folder / namespace / entry))
                _erase(folder / namespace / entry)
            else:
                yield Bundle(folder, check_identifier(namespace), entry)


def root_owner(config: bytes) -> tuple[int, int]:
    """The host's ids of the container's root user and group: not (0, 0) in a user namespace (OCI runtime-spec, linux).

    A configuration that is no JSON of that shape gives (0, 0); the OCI runtime will say what is wrong with it.
    """
    try:
        linux: Any = msgspec.json.decode(config).get("linux") or {}
        return _host_id(linux.get("uidMappings")), _host_id(linux.get("gidMappings"))
    except (msgspec.DecodeError, AttributeError, TypeError, ValueError):
        return 0, 0


def _host_id(mappings: Sequence[dict[str, Any]] | None) -> int:
    for mapping in mappings or ():
        if int(mapping.get("containerID", 0)) == 0:
            return int(mapping.get("hostID", 0))
    return 0


def _open_to(path: Path, owner: tuple[int, int]) -> None:
    """Let the group of a user namespace's root into the folder, and nobody else."""
    _, gid = owner
    if owner != (0, 0):
        os.chown(path, 0, gid)
        path.chmod(0o710)


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
