"""A mount as snapshotters return it and shims perform it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount, in `fstab` terms; `options` are passed as given (`ro`, `rbind`, `lowerdir=…`).

    `target` is relative to the root file system that the mounts build together; empty for the root itself.
    """

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()
