"""The pool of threads, the locks, and fetching side by side."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time

import pytest

from moorage_api.errors import NotFound, Unavailable
from moorage_api.linux import syscalls
from moorage_api.types import Descriptor
from mooraged.transfer.fetches import Fetches
from mooraged.transfer.threads import KeyedLocks, Threads


async def test_a_cancelled_caller_waits_for_the_thread() -> None:
    threads = Threads(1)
    started, ended = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        time.sleep(0.2)
        ended.set()

    task = asyncio.create_task(threads.run(work))
    while not started.is_set():
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    threads.close()


async def test_they_give_way_without_being_nicer() -> None:
    threads = Threads(1)
    found = await threads.run(lambda: (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)))
    assert found == (os.SCHED_BATCH, os.getpriority(os.PRIO_PROCESS, 0))
    threads.close()


async def test_they_work_where_they_may_not_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(syscalls, "set_scheduling", refuse)
    threads = Threads(1)
    assert await threads.run(lambda: "done") == "done"
    threads.close()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_a_cancelled_caller_obtained_is_given_back(cancelled: bool) -> None:
    threads = Threads(1)
    given_back: list[int] = []

    def work() -> int:
        time.sleep(0.1)
        return 7

    task = asyncio.create_task(threads.obtain(work, given_back.append))
    await asyncio.sleep(0.02)
    if cancelled:
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() is cancelled
    assert given_back == ([7] if cancelled else [])
    threads.close()


async def test_a_closed_pool_takes_no_calls() -> None:
    threads = Threads(1)
    assert await threads.run(lambda: 3) == 3
    threads.close()
    with pytest.raises(Unavailable):
        await threads.run(lambda: 3)


async def test_locks_exclude_by_key_and_vanish() -> None:
    locks: KeyedLocks[str] = KeyedLocks()
    order: list[str] = []

    async def use(key: str, name: str) -> None:
        async with locks.hold(key):
            order.append(f"{name} in")
            await asyncio.sleep(0.01)
            order.append(f"{name} out")

    await asyncio.gather(use("a", "first"), use("a", "second"), use("b", "other"))
    assert order.index("first out") < order.index("second in")
    assert order.index("other in") < order.index("first out")
    assert not locks.locked("a")
    assert not locks.locked("b")


async def test_a_cancelled_waiter_leaves_the_lock_to_others() -> None:
    locks: KeyedLocks[str] = KeyedLocks()
    async with locks.hold("a"):
        waiter = asyncio.create_task(locks.hold("a").__aenter__())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        assert locks.locked("a")
    assert not locks.locked("a")


BLOBS = [Descriptor("", f"sha256:{number:064x}", 1) for number in range(4)]


async def test_nothing_is_fetched_before_it_is_needed() -> None:
    fetched: list[Descriptor] = []

    async def fetch(descriptor: Descriptor) -> None:
        fetched.append(descriptor)

    async with Fetches(fetch, [*BLOBS, BLOBS[2]]) as fetches:
        await asyncio.sleep(0)
        assert fetched == []
        await fetches.need(BLOBS[2])
        assert fetched == BLOBS[2:]
        await fetches.finish(skip={BLOBS[0].digest})
        assert fetched == [*BLOBS[2:], BLOBS[1]]


async def test_one_failure_ends_all() -> None:
    cancelled: list[Descriptor] = []

    async def fetch(descriptor: Descriptor) -> None:
        if descriptor is BLOBS[3]:
            raise NotFound("gone")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(descriptor)
            raise

    with pytest.raises(NotFound, match="gone"):
        async with Fetches(fetch, BLOBS) as fetches:
            await fetches.need(BLOBS[0])
    assert cancelled == BLOBS[:3]
