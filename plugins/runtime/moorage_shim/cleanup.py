"""Remove what a dead shim left: processes, the OCI runtime's state, control groups, mounts. Runs in a process of its own."""

from __future__ import annotations

import os
import signal
import time

from moorage_api.errors import MoorageError
from moorage_api.linux import mount, syscalls
from moorage_api.linux.pins import unpin
from moorage_shim import idmounts, log, podinit, records
from moorage_shim.cgroups import Cgroup
from moorage_shim.loop import Loop
from moorage_shim.oci import OciRuntime
from moorage_shim.processes import Forker, Reaper
from moorage_shim.records import ExitRecord, RunRecord

_PATIENCE = 5.0
_PAUSE = 0.01


def clean_up(bundle: str, namespace: str, id: str) -> ExitRecord:
    """Remove everything, and tell how the container ended: from its record, else as killed now."""
    record = records.read_run(bundle)
    ended = records.read_exit(bundle)
    if record is not None:
        _delete_container(record, bundle)
    _unmount(os.path.join(bundle, "rootfs"))
    idmounts.detach(bundle)
    podinit.end_init(bundle)
    unpin(bundle)
    if ended is not None:
        return ended
    pid = record.pid if record is not None else 0
    return ExitRecord(id, pid, 128 + signal.SIGKILL, time.time_ns())


def _delete_container(record: RunRecord, bundle: str) -> None:
    """Kill by control group first: a runtime that hangs must not keep the processes alive."""
    cgroup = Cgroup(record.cgroup)
    cgroup.kill()
    deadline = time.monotonic() + _PATIENCE
    while cgroup.pids() and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    loop = Loop()
    forker = Forker(loop, Reaper(loop))
    runtime = OciRuntime(forker, record.binary, record.root, bundle, systemd_cgroup=record.systemd_cgroup)
    try:
        loop.run(loop.spawn(runtime.delete(record.id, force=True), "delete"))
    except MoorageError as error:
        log.warning(f"{record.id}: {error.message}")
    cgroup.remove()


def _unmount(rootfs: str) -> None:
    try:
        mount.unmount_recursive(rootfs)
    except OSError:
        mount.unmount_recursive(rootfs, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
