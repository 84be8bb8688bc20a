"""Measurements of processes and of calls, for the tests that print figures and for the benchmarks."""

from __future__ import annotations

import contextlib
import re
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from support.leftovers import tagged_processes
from support.shim import worker_name

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
    """The PSS of each shim in bytes. What works for it is part of it: processes that it has forked under the same name,
    and the worker that bears its pid in its name. A spare, which is no pod's shim, has another name."""
    processes = processes_named(tag, names)
    weights = {pid: 0 for pid, parent in processes.items() if parent not in processes}
    workers = {worker: pid for pid in weights for worker in processes_named(tag, [worker_name(pid)])}
    for pid, parent in processes.items() | workers.items():
        shim = pid if pid in weights else parent
        while shim not in weights:
            shim = processes[shim]
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            weights[shim] += pss(pid)
    return list(weights.values())


def heeds(pid: int, number: signal.Signals, name: str = "sh") -> bool:
    """Whether the process is that program, and ignores the signal or has a handler for it (proc(5), status): what is still
    the OCI runtime has handlers, too."""
    text = Path(f"/proc/{pid}/status").read_text()
    fields = dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE))
    mask = int(fields["SigIgn"], 16) | int(fields["SigCgt"], 16)
    return fields["Name"] == name and bool(mask >> (number - 1) & 1)


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
