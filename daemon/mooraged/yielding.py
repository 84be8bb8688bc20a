"""Work in bulk, which others need not wait for."""

from __future__ import annotations

import logging
import os

from moorage_api.linux import syscalls

logger = logging.getLogger(__name__)

_SLICE = 20_000_000
"""Nanoseconds. Whoever asks for less, which is nearly everybody, runs in the middle of it."""
_NICENESS_MAX = 19


def give_way(niceness: int = 0) -> None:
    """Have the calling thread, and what it starts, let others run as soon as they have something to do; with `niceness` it
    gets less of the processors, too. Within the daemon's cgroup only, where it has one.

    A thread of Python must not be nicer than those that it shares the interpreter with: it would hold that, and get no processor.
    """
    nice = min(os.getpriority(os.PRIO_PROCESS, 0) + niceness, _NICENESS_MAX)
    try:
        # As a batch: without the right to run at once when it wakes, which is for what has little to do.
        syscalls.set_scheduling(os.SCHED_BATCH, nice, _SLICE)
    except OSError as error:
        # Where the daemon may not, or the kernel does not know how, the work is done all the same.
        logger.info("work in bulk does not give way to other work: %s", error)
