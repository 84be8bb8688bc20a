"""What of the host decides how a container's specification looks; read once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from moorage_api.oci import capabilities

_CGROUPS = "/sys/fs/cgroup"
_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUX = "/sys/fs/selinux/enforce"


@dataclass(frozen=True, slots=True)
class Host:
    """`unified`: cgroup v2 alone. `oom_score_adj`: the daemon's own, below which it cannot go without the capability."""

    unified: bool
    swap: bool
    hugetlb: bool
    apparmor: bool
    selinux: bool
    oom_score_adj: int
    capabilities: tuple[str, ...]

    @property
    def may_lower_oom_score(self) -> bool:
        return "CAP_SYS_RESOURCE" in self.capabilities


@cache
def host() -> Host:
    """This host."""
    unified = os.path.exists(f"{_CGROUPS}/cgroup.controllers")
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        oom_score_adj = int(file.read())
    return Host(
        unified=unified,
        swap=_unified_swap() if unified else os.path.exists(f"{_CGROUPS}/memory/memory.memsw.limit_in_bytes"),
        hugetlb="hugetlb" in _read(f"{_CGROUPS}/cgroup.controllers").split()
        if unified
        else os.path.isdir(f"{_CGROUPS}/hugetlb"),
        apparmor=_read(_APPARMOR).strip() == "Y",
        selinux=os.path.exists(_SELINUX),
        oom_score_adj=oom_score_adj,
        capabilities=capabilities.held(),
    )


def _unified_swap() -> bool:
    """The root group has no swap limit, so the daemon's own is asked."""
    own = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    return os.path.exists(f"{_CGROUPS}{own.rstrip('/')}/memory.swap.max")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
