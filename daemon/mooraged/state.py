"""What the daemon is doing, told into its log on SIGUSR1: for whoever wonders why it hangs or grows."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback

from mooraged.loops import all_tasks

logger = logging.getLogger(__name__)
_STACK_LINES = 3


def log_state() -> None:
    """How many tasks, threads and descriptors there are, then where each task and thread stands. Call it on the loop."""
    tasks = sorted(all_tasks(), key=lambda task: task.get_name())
    frames = sys._current_frames()
    threads = sorted(threading.enumerate(), key=lambda thread: thread.name)
    counts = {"tasks": len(tasks), "threads": len(threads), "descriptors": len(os.listdir("/proc/self/fd"))}
    logger.info("state", extra=counts)
    for task in tasks:
        where = [f"{frame.f_code.co_filename}:{frame.f_lineno}" for frame in task.get_stack(limit=_STACK_LINES)]
        logger.info("task", extra={"task": task.get_name(), "coroutine": str(task.get_coro()), "at": " < ".join(where)})
    for thread in threads:
        frame = frames.get(thread.ident or 0)
        if frame is not None:
            where = [f"{entry.filename}:{entry.lineno}" for entry in traceback.extract_stack(frame, _STACK_LINES)]
            logger.info("thread", extra={"thread_name": thread.name, "at": " > ".join(where)})
