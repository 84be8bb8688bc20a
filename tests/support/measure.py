"""Measurements of processes and of calls, for the tests that print figures and for the benchmarks."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from support.leftovers import tagged_processes

T = TypeVar("T")


def pss(pid: int) -> int:
    """The proportional set size of a process in bytes (`/proc/PID/smaps_rollup`: shared pages count by their share)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no Pss in smaps_rollup of {pid}")


def processes_named(tag: str, names: Iterable[str]) -> dict[int, int]:
    """The processes that carry `tag` and whose kernel name (`comm`, 15 characters) is one of `names`: pid and parent."""
    wanted = {name[:15] for name in names}
    found: dict[int, int] = {}
    for pid in tagged_processes(tag):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            if stat[stat.index("(") + 1 : stat.rindex(")")] in wanted:
                found[pid] = int(stat[stat.rindex(")") + 2 :].split()[1])
    return found


def shim_weights(tag: str, names: Iterable[str] = ("moorage-shim",)) -> list[int]:
    """The PSS of each shim in bytes; what a shim has forked to work for it, by the same name, is part of it. A spare, which
    is no pod's shim, does not count."""
    processes = processes_named(tag, names)
    for keeper in processes_named(tag, ["moorage-spare"]).values():
        processes.pop(keeper, None)
    weights = {pid: 0 for pid, parent in processes.items() if parent not in processes}
    for pid, parent in processes.items():
        shim = pid if pid in weights else parent
        while shim not in weights:
            shim = processes[shim]
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            weights[shim] += pss(pid)
    return list(weights.values())


@dataclass
class Timings:
    """Durations of one operation, in seconds."""

    seconds: list[float] = field(default_factory=list)

    def time(self, call: Callable[[], T]) -> T:
        """Run `call`, keep how long it took."""
        start = time.perf_counter()
        result = call()
        self.seconds.append(time.perf_counter() - start)
        return result

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def milliseconds(values: Sequence[float]) -> str:
    """Median, smallest and largest, as people read them."""
    return f"{statistics.median(values) * 1e3:.1f} ms ({min(values) * 1e3:.1f} to {max(values) * 1e3:.1f})"
