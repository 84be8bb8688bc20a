"""Linux capabilities by name, as OCI runtime specifications list them (capabilities(7))."""

from __future__ import annotations

from collections.abc import Iterable

from moorage_api.errors import InvalidArgument

# By number: the place in this tuple is the bit in the kernel's masks.
ALL = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)

# What a container has unless told otherwise: containerd's and Docker's set.
DEFAULT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)


def held() -> tuple[str, ...]:
    """The capabilities that this process may hand on: its effective set, without those this table has no name for."""
    with open("/proc/self/status", encoding="ascii") as status:
        mask = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return tuple(name for bit, name in enumerate(ALL) if mask >> bit & 1)


def normalise(name: str) -> str:
    """`NET_ADMIN`, `net_admin` and `CAP_NET_ADMIN` are all `CAP_NET_ADMIN`. `InvalidArgument` for an unknown one."""
    upper = name.upper()
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in ALL:
        raise InvalidArgument(f"unknown capability {name[:64]!r}")
    return full


def adjust(
    base: Iterable[str], add: Iterable[str] = (), drop: Iterable[str] = (), *, everything: Iterable[str] = ALL
) -> list[str]:
    """`base` with `add` and without `drop`; `ALL` in either comes first, so that single names still count after it.

    `everything` is what `ALL` stands for: best `held()`, since a container cannot get what its maker lacks.
    """
    added, dropped = [name.upper() for name in add], [name.upper() for name in drop]
    names = list(everything) if "ALL" in added else list(base)
    if "ALL" in dropped:
        names = []
    for name in (normalise(name) for name in added if name != "ALL"):
        if name not in names:
            names.append(name)
    unwanted = {normalise(name) for name in dropped if name != "ALL"}
    return [name for name in names if name not in unwanted]
